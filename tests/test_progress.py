"""A bar where a person watches, silence or fixed lines elsewhere."""

import io
import sys

from reidkit import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch) -> Terminal:
    """Put a terminal where standard error was (called in a test, because pytest puts its own back between phases)."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    return screen


def test_headless_iteration_is_silent(capsys):
    assert list(progress.track(range(3), title="counting")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_a_terminal_sees_the_title_and_the_total(monkeypatch):
    screen = terminal(monkeypatch)
    assert list(progress.track(iter("ab"), title="counting", total=2, unit="letters")) == ["a", "b"]
    assert "counting" in screen.getvalue() and "/2" in screen.getvalue()


def test_a_live_notebook_sees_a_bar(monkeypatch, capsys):
    monkeypatch.setenv("REIDKIT_LIVE", "1")
    list(progress.track(range(3), title="counting"))
    assert "counting" in capsys.readouterr().err


def test_disabled_is_silent_even_in_a_terminal(monkeypatch, capsys):
    screen = terminal(monkeypatch)
    assert list(progress.track(range(3), title="counting", enabled=False)) == [0, 1, 2]
    progress.note("a line", enabled=False)
    assert screen.getvalue() == "" and capsys.readouterr().out == ""


def test_a_bar_is_moved_by_hand(monkeypatch):
    screen = terminal(monkeypatch)
    with progress.bar(title="drawing", total=10, unit="images") as bar:
        bar.update(4)
        assert bar.n == 4
    assert "drawing" in screen.getvalue()


def test_a_note_is_one_fixed_line_on_standard_output(capsys):
    progress.note("epoch 1 of 2")
    assert capsys.readouterr() == ("epoch 1 of 2\n", "")


def test_breaking_out_of_the_loop_closes_the_bar(monkeypatch):
    terminal(monkeypatch)
    for item in progress.track(range(100), title="counting"):
        if item == 1:
            break
    progress.note("after")
    assert not [bar for bar in progress.tqdm._instances if not bar.disable]
