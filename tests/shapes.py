"""The checker of types and shapes that the tests put before every function of the library."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # a whole number is a number too
