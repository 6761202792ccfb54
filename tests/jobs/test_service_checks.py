"""What service refuses before anything is read, and whose persons it names. No Spark."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from jobs.settings import Settings
from jobs.task import BY_ID
from jobs.tasks.service import TASK, refuse_few_to_mix
from jobs.tasks.service_options import ServiceOptions
from training.errors import SettingsError


def test_options_that_do_nothing_or_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"tokens_kept must be 0, or 3 at least, .*; it is 2: raise it"):
        ServiceOptions(tokens_kept=2)
    with pytest.raises(ValidationError, match="weights is '/w', and vectors and tokens_kept are 0, so that nothing"):
        ServiceOptions(weights="/w")
    with pytest.raises(ValidationError, match=r"in people and in out_of_scope; \['a'\] do"):
        ServiceOptions(people=("a", "b"), out_of_scope=("a",))


def test_a_rank_must_have_messages_to_mix() -> None:
    refuse_few_to_mix({"training": {"batch_size": 64}, "model": {}}, 4)
    refuse_few_to_mix({"training": {"batch_size": 16}, "model": {"mixed": 0.0}}, 4)
    with pytest.raises(SettingsError, match=r"each of 4 ranks 16 rows or more .*; it gives 8: raise it"):
        refuse_few_to_mix({"training": {"batch_size": 32}, "model": {}}, 4)


def test_persons_are_those_that_the_settings_name_of_each_table() -> None:
    named = {name: {"persons": ["user_id"]} for name in ("messages", "orders", "answers")}
    found = TASK.persons(Settings.model_validate({"task": "service", "sources": named}))
    assert [table for table, columns in found.items() if columns == {"user_id": BY_ID}] == [*named]
