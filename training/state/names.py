"""Names of files that go with bundles, for who must not ask for what reads them."""

ATTACHMENTS = "attachments"  # the folder in a bundle that they lie in
ITEMS = "items.arrow"  # training/state/items.py
INTENTS = "intents.json"  # the names of classes, by their numbers
CLASSES = "classes.json"  # the same, of pictures
