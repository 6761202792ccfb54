"""Names of files that go with bundles, for who must not ask for what reads them."""

ITEMS = "items.arrow"  # training/state/items.py
