"""The gate that a batch of rows passes before it is written: its profile, the judgement of it, and the verdict kept."""
