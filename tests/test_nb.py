"""What a notebook stores: source that cannot drift, claims that can fail, tables without a style, no widget."""

import sys
import textwrap

import nbformat
import numpy
import pandas
import pytest
import torch
from nbclient import NotebookClient

from reidkit import files, nb


@pytest.fixture
def shown(monkeypatch) -> list:
    """What was displayed, instead of displaying it."""
    outputs = []
    monkeypatch.setattr(nb, "display", outputs.append)
    return outputs


def documented(a: int) -> int:
    """Twice `a`.

    Args:
        a: any number.
    """
    return 2 * a  # [double]


class Documented:
    """A class.

    With more to say.
    """

    def method(self) -> str:
        """One paragraph
        on two lines.

        And another."""
        return "kept"


def test_show_gives_the_source_in_a_python_fence(shown):
    nb.show(documented)
    place, _, code = shown[0].data.partition("\n\n")
    assert place.endswith("test_nb.documented`")
    assert code.startswith("```python\ndef documented(a: int) -> int:\n") and code.endswith("# [double]\n```")
    assert "any number" not in code


def test_show_cuts_docstrings_to_their_first_paragraph(shown):
    nb.show(documented, Documented)
    assert '    """Twice `a`."""\n    return 2 * a' in shown[0].data
    assert '    """A class."""\n' in shown[1].data
    assert '        """One paragraph\n        on two lines."""\n        return "kept"' in shown[1].data
    for output in shown:  # what is shown is still Python
        compile(output.data.split("```python\n")[1].rstrip("`\n"), "shown", "exec")


def test_show_sees_through_decorators(shown):
    nb.show(torch.no_grad()(documented))
    assert "def documented" in shown[0].data


def test_show_refuses_a_value(shown):
    with pytest.raises(ValueError, match="pass a function or a class"):
        nb.show(documented(1))


@pytest.mark.parametrize("truth", [True, numpy.bool_(True), torch.tensor(True), torch.tensor([True])])
def test_a_claim_that_holds_prints_its_sentence(truth, capsys):
    nb.claim("it holds", truth)
    assert capsys.readouterr().out == "✓ it holds\n"


@pytest.mark.parametrize("truth", [False, numpy.bool_(False), torch.tensor(False)])
def test_a_claim_that_fails_stops_with_its_sentence(truth, capsys):
    with pytest.raises(AssertionError, match=r"^✗ it holds$"):
        nb.claim("it holds", truth)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("always_true", [(False, "text"), "False", 3, [False], torch.tensor([True, True]), None])
def test_a_claim_refuses_what_is_not_one_truth_value(always_true):
    with pytest.raises(ValueError, match=r"condition is a .*; a claim needs one truth value"):
        nb.claim("it holds", always_true)


def test_a_table_is_plain_and_the_same_in_every_run(shown):
    frame = pandas.DataFrame({"variant": ["a<b", "c"], "mAP": [0.12345, float("nan")], "n": [1, 2]})
    nb.table(frame, caption="Half & half", digits=2)
    nb.table(frame, caption="Half & half", digits=2)
    first, second = shown
    assert first._repr_html_() == second._repr_html_() and repr(first) == repr(second)
    assert "a&lt;b" in first._repr_html_() and "<caption>Half &amp; half</caption>" in first._repr_html_()
    assert "style=" not in first._repr_html_().replace('style="text-align: left;"', "") and "id=" not in repr(first)
    assert repr(first).splitlines()[0] == "Half & half"
    assert "0.12 " in repr(first) and "0.1234" not in repr(first) and "–" in repr(first)


def test_a_table_without_rows_says_so(capsys):
    nb.table([], caption="Recorded")
    assert capsys.readouterr().out.split() == ["Recorded", "rows", "none", "yet"]


def test_a_table_takes_rows_or_one_row(shown):
    nb.table([{"camera": 1}, {"camera": 2}])
    nb.table({"images": 3, "people": 2})
    assert [len(repr(output).splitlines()) for output in shown] == [3, 2]


def test_explore_draws_the_panels_and_loads_no_widget_when_nobody_is_there():
    calls = []
    loaded = "ipywidgets" in sys.modules
    nb.explore(lambda radius: calls.append(radius), radius=(0.1, 0.2))
    assert calls == [(0.1, 0.2)] and ("ipywidgets" in sys.modules) == loaded


def test_explore_adds_a_slider_for_a_person(monkeypatch):
    ipywidgets = pytest.importorskip("ipywidgets")
    sliders, calls = {}, []

    def interact(function, **widgets):
        sliders.update(widgets)
        assert function(**{name: widget.value for name, widget in widgets.items()}) is None

    monkeypatch.setenv("REIDKIT_LIVE", "1")
    monkeypatch.setattr(ipywidgets, "interact", interact)
    nb.explore(lambda **knobs: calls.append(knobs), radius=(0.1, 0.5), k=(1, 5), kind=("a", "b"))
    assert [type(widget).__name__ for widget in sliders.values()] == ["FloatSlider", "IntSlider", "Dropdown"]
    assert (sliders["radius"].min, sliders["radius"].max) == (0.1, 0.5)
    assert calls == [
        {"radius": (0.1, 0.5), "k": (1, 5), "kind": ("a", "b")},
        {"radius": (0.1,), "k": (1,), "kind": ("a",)},
    ]


@pytest.mark.parametrize("knobs", [{}, {"radius": (1.0,)}])
def test_explore_needs_a_knob_with_values(knobs):
    with pytest.raises(ValueError, match="at least two values"):
        nb.explore(print, **knobs)


def test_a_stored_notebook_holds_text_only():
    code = """
        from reidkit import files, nb
        nb.show(files.write_text)
        nb.table([{"camera": 1, "images": 3}], caption="Counts")
        nb.explore(lambda radius: print(radius), radius=(0.3, 0.7))
        nb.claim("it holds", True)
    """
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(textwrap.dedent(code))])
    NotebookClient(notebook, kernel_name="python3", extra_arguments=["--log-level=40"]).execute()
    source, counted, printed = notebook.cells[0].outputs
    assert source.data["text/plain"] == "<IPython.core.display.Markdown object>"  # no address in memory
    assert files.write_text.__doc__.splitlines()[0] in source.data["text/markdown"]
    assert sorted(counted.data) == ["text/html", "text/plain"]
    assert printed.text == "(0.3, 0.7)\n✓ it holds\n" and "widgets" not in notebook.metadata
