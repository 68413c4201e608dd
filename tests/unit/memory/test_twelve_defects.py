"""Twelve ways in which memories of this kind were seen to fail, and the tests that hold ours.

A list that nobody checks says nothing: here each test that is named exists, and asserts.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).parent

DEFECTS = {
    "1 older turns rank higher, the older they are": (
        "test_old_defects.py",
        "test_an_old_turn_does_not_overtake_a_new_one_that_fits_as_well",
    ),
    "2 every word of a question must occur": (
        "test_old_defects.py",
        "test_one_word_of_a_question_is_enough_to_find_something",
    ),
    "3 the same words of a second tenant are dropped": (
        "test_old_defects.py",
        "test_the_same_words_of_two_tenants_are_kept_twice",
    ),
    "4 a threshold of relevance has no effect": (
        "test_old_defects.py",
        "test_a_threshold_leaves_out_what_fits_badly",
    ),
    "5 pruning takes from all tenants": (
        "test_old_defects.py",
        "test_pruning_never_touches_another_tenant",
    ),
    "6 a request names its tenant": (
        "test_tenants.py",
        "test_no_request_names_another_tenant",
    ),
    "7 every block is taken for 64 tokens from the front": (
        "test_block_mapping.py",
        "test_the_turn_that_a_block_holds_is_archived_whatever_its_size_and_place",
    ),
    "8 the notice is described and never sent": (
        "test_consumer.py",
        "test_a_turn_is_archived_when_one_of_its_blocks_is_gone",
    ),
    "9 what waits to be extracted is lost with the process": (
        "test_extraction.py",
        "test_nothing_is_lost_when_the_process_ends_in_the_middle",
    ),
    "10 a test of eviction that asserts nothing of archives": (
        "test_eviction_oracle.py",
        "look",
    ),
    "11 statistics of words are shared by all tenants": (
        "test_old_defects.py",
        "test_scores_do_not_tell_what_other_tenants_have",
    ),
    "12 a search costs what all tenants have": (
        "test_old_defects.py",
        "test_a_search_reads_its_own_tenants_file_alone",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_has_a_test_that_asserts(defect: str) -> None:
    file, name = DEFECTS[defect]
    functions = {
        node.name: node
        for node in ast.walk(ast.parse((HERE / file).read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }

    assert name in functions, f"{file} has no {name}"
    asserts = [node for node in ast.walk(functions[name]) if isinstance(node, ast.Assert)]
    calls_that_assert = "status" in ast.dump(functions[name])
    assert asserts or calls_that_assert, f"{name} asserts nothing"
