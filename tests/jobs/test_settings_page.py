"""The reference of the settings holds them all, and docs/settings.md is what the command prints."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from jobs.settings import Settings
from jobs.settings_page import page
from training.configs import CONFIGS

SECTIONS: dict[str, type[BaseModel]] = {
    name: kind
    for name, field in Settings.model_fields.items()
    if isinstance(kind := field.annotation, type) and issubclass(kind, BaseModel)
} | {f"model {name}": config for name, config in CONFIGS.items()}


def test_the_page_in_docs_is_the_commands() -> None:
    held = (Path(__file__).resolve().parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
    assert held == page(), "run `millrace settings > docs/settings.md`"


@pytest.mark.parametrize("section", SECTIONS)
def test_every_field_is_described(section: str) -> None:
    bare = [name for name, field in SECTIONS[section].model_fields.items() if not field.description]
    assert not bare, f"fields of {section} without a description"


def test_a_line_has_default_choices_and_description() -> None:
    text = page()
    assert "| `epochs` | `1` | times that all rows are learned from |" in text
    assert "| `precision` | `fp32` | bf16: products in bfloat16" in text
    assert "; one of fp32, bf16 |" in text
    assert "| `compile` | `false` |" in text
