"""The tree of errors."""

import inspect
import re
from types import ModuleType

import pytest

from contract import errors as contract_errors
from contract.errors import ConvokeError
from service import errors


def classes(module: ModuleType) -> dict[str, type[ConvokeError]]:
    """The error classes that a module defines, but not their base."""
    tree = {name: cls for name, cls in inspect.getmembers(module, inspect.isclass) if issubclass(cls, ConvokeError)}
    return {name: cls for name, cls in tree.items() if cls.__module__ == module.__name__ and cls is not ConvokeError}


@pytest.mark.parametrize("module", [contract_errors, errors])
def test_the_drawn_tree_is_the_tree(module: ModuleType) -> None:
    """The module's docstring names every error class of the module, with its status and code unless inherited."""
    drawn = dict(re.findall("── ([A-Za-z]+) *(.*)", module.__doc__ or ""))
    assert set(drawn) == set(classes(module))
    for name, error in classes(module).items():
        assert drawn[name].split() in ([], [str(error.status), error.code])
        assert bool(drawn[name]) is (error.__base__ is ConvokeError)


@pytest.mark.parametrize("module", [contract_errors, errors])
def test_every_error_says_what_it_means(module: ModuleType) -> None:
    """Its docstring is one line of whole sentences: OpenAPI shows it as the meaning of the status."""
    for error in classes(module).values():
        assert re.fullmatch(r"[A-Z][^\n]+\.", error.__doc__ or ""), error
