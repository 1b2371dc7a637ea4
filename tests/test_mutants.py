"""The mutants themselves; what the tests make of them is in BUILD_NOTES.md (tests/mutants.py finds it out)."""

import json

import pytest
from conftest import ROOT
from mutants import EXPLAINED, TESTS
from mutations import chosen, mutants_of

SMALL = '''
"""Says what it is for."""
LIMIT = 0.5

def judge(x: int, *, least: float = 1.0) -> bool:
    """The docstring."""
    if x < LIMIT and not least:
        x = abs(x) - 1
        print(f"{x} is less", end="")
    return max(x, least) == 2
'''


@pytest.fixture(scope="module")
def mutants():
    return {module: mutants_of(ROOT / "bridge_ebm" / f"{module}.py") for module in TESTS}


def test_every_kind_of_fault_is_made_and_words_and_types_are_left_alone(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(SMALL)
    found = mutants_of(path)
    for change in (
        *("LIMIT = 1.0", "x <= LIMIT", "x >= LIMIT", "x < LIMIT or ", "and least:", "x = x - 1", "x = abs(x) + 1"),
        *("min(x, least)", "!= 2", "== 3", "least: float=2.0", "print(f'{x} is less')", "end='!'", "if not (x < LIMIT"),
    ):
        assert sum(change in mutant.source for mutant in found) == 1, change
    assert {"statement dropped", "keyword dropped", "condition negated", "operator", "function dropped"} <= {
        mutant.kind for mutant in found
    }
    assert all('"""Says what it is for."""' in mutant.source and "less!" not in mutant.source for mutant in found)
    assert all("x: int" in mutant.source and "-> bool" in mutant.source for mutant in found)


def test_mutants_are_programs_and_differ(mutants):
    for module, found in mutants.items():
        assert len({mutant.source for mutant in found}) == len(found) >= 40, module
        for mutant in found[::10]:
            compile(mutant.source, module, "exec")


def test_a_sample_is_repeatable_and_a_larger_one_has_it_too(mutants):
    found = mutants["objectives"]
    few, more = chosen(found, 10, seed=1), chosen(found, 20, seed=1)
    assert len(few) == 10 and set(few) <= set(more) and few != chosen(found, 10, seed=2)
    assert chosen(found, 10**6, seed=1) == found


def test_what_is_explained_exists(mutants):
    explained = json.loads(EXPLAINED.read_text(encoding="utf-8"))
    assert explained.keys() <= {mutant.name for found in mutants.values() for mutant in found}
    assert all(len(why) > 20 for why in explained.values())
