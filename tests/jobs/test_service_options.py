"""Service's settings: what customers see is checked before anybody sees it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from jobs.tasks.service_options import ServiceOptions


def test_what_fills_a_placeholder_is_checked() -> None:
    with pytest.raises(ValidationError, match=r"'a' is filled with '@orders.shoe_size'; known: @order_number, @email"):
        ServiceOptions(fills={"a": "@orders.shoe_size"})
    for wrong, problem in (
        ({"fills": {"a": "{{b}}"}}, r"no marks of placeholders; '\{\{b\}\}' holds \{\{b\}\}"),
        ({"handed_over": "Write to [Email]."}, r"'Write to \[Email\].' holds \[Email\]"),
        ({"questions": {"email": "Hi <Name>, which?"}}, "holds <Name>"),
        ({"handed_over": "  "}, "must not be blank; it is '  '"),
        ({"fills": {"{{Order Number}}": "@order_number"}}, r"without marks; it is '\{\{Order Number\}\}'"),
        ({"fills": {"Order Number": "one", "order  number": "two"}}, "two names are one, 'order number'"),
    ):
        with pytest.raises(ValidationError, match=problem):
            ServiceOptions(**wrong)
