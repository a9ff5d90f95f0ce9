"""Image sets, read from local files: CIFAR-10, Fashion-MNIST and scikit-learn's digits."""

import gzip
import hashlib
import io
import pickle
import tarfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int32, UInt8
from numpy import ndarray


class Images(NamedTuple):
    """Pixels between 0 and 1, and the class of each image."""

    pixels: Float32[ndarray, "images height width channels"]
    labels: Int32[ndarray, " images"]


@runtime_checkable
class ImageSet(Protocol):
    """A source of images. `load` returns the first `images` images."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> int: ...
    @property
    def image_shape(self) -> tuple[int, int, int]: ...
    def load(self, images: int) -> Images: ...
    def refuse_unless_there(self) -> None: ...  # raises ValueError that explains how to get the images


@dataclass(frozen=True)
class Digits:
    """1,797 handwritten digits of 8 x 8 pixels from scikit-learn.

    >>> Digits().image_shape
    (8, 8, 1)
    """

    name = "Digits"
    classes = 10
    image_shape = (8, 8, 1)

    def load(self, images: int) -> Images:
        """Loads the first images. Raises ValueError if there are too few or scikit-learn is not installed."""
        self.refuse_unless_there()
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        return _first(images, pixels.reshape(-1, *self.image_shape) / 16, np.asarray(labels), self.name)

    def refuse_unless_there(self) -> None:
        """Raises ValueError if scikit-learn is not installed."""
        try:
            import sklearn  # noqa: F401
        except ImportError as error:
            raise ValueError(f"Digits needs scikit-learn ({error}): pip install 'dormant[images]'.") from None


@dataclass(frozen=True)
class FashionMNIST:
    """60,000 grey pictures of clothes, 28 x 28 pixels, from Debian's package or from a folder.

    >>> FashionMNIST().image_shape
    (28, 28, 1)

    Source: Xiao, Rasul and Vollgraf 2017. The MD5 is for the unpacked content, because compressed files differ between
    sources.
    """

    path: Path | None = field(default=None, compare=False)  # does not change results, because `load` checks the content
    name = "Fashion-MNIST"
    classes = 10
    image_shape = (28, 28, 1)

    def load(self, images: int) -> Images:
        """Loads the first training images. Raises ValueError if a file is missing or damaged."""
        self.refuse_unless_there()
        pixels, labels = (_idx(self._folder / file, md5) for file, md5 in FASHION_FILES.items())
        return _first(images, pixels[..., None] / np.float32(255), labels, self.name)

    def refuse_unless_there(self) -> None:
        """Raises ValueError if the folder lacks a file."""
        for file in FASHION_FILES:
            if not (self._folder / file).is_file():
                raise ValueError(
                    f"Fashion-MNIST: there is no {self._folder / file}; apt-get install dataset-fashion-mnist, or name "
                    "the folder of these files with --data."
                )

    @property
    def _folder(self) -> Path:
        return self.path or DEBIAN_FASHION


@dataclass(frozen=True)
class CIFAR10:
    """50,000 colour photographs of ten kinds of objects, 32 x 32 pixels, from the archive at `path`.

    >>> CIFAR10().image_shape
    (32, 32, 3)

    Source: Krizhevsky 2009. The MD5 is from the archive's download page.
    """

    path: Path | None = field(default=None, compare=False)
    name = "CIFAR-10"
    classes = 10
    image_shape = (32, 32, 3)

    def load(self, images: int) -> Images:
        """Loads the first training images. Raises ValueError if the archive is missing or its MD5 differs."""
        self.refuse_unless_there()
        assert self.path is not None
        content = self.path.read_bytes()
        _check(self.path, content, CIFAR_MD5)
        batches = [_batch(content, number) for number in range(1, 2 + (images - 1) // 10_000)]
        pixels = np.concatenate([batch.pixels for batch in batches])
        return _first(images, pixels, np.concatenate([batch.labels for batch in batches]), self.name)

    def refuse_unless_there(self) -> None:
        """Raises ValueError if no archive is named or it does not exist."""
        if self.path is None or not self.path.is_file():
            found = "none was named" if self.path is None else f"there is no {self.path}"
            raise ValueError(
                f"CIFAR-10 needs cifar-10-python.tar.gz, the archive for Python (MD5 {CIFAR_MD5}), and {found}; "
                "give its path with --data."
            )


CIFAR_MD5 = "c58f30108f718f92721af3b95e74349a"
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
FASHION_FILES = {  # file -> MD5 of its unpacked content
    "train-images-idx3-ubyte.gz": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte.gz": "9018921c3c673c538a1fc5bad174d6f9",
}


def _first(images: int, pixels: ndarray, labels: ndarray, name: str) -> Images:
    if images > len(labels):
        raise ValueError(f"{name} has {len(labels):,} images for training, but {images:,} were requested.")
    return Images(pixels[:images].astype(np.float32), labels[:images].astype(np.int32))


def _check(file: Path, content: bytes, md5: str) -> None:
    """Raises ValueError if the checksum differs."""
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise ValueError(f"{file} has MD5 {found}, expected {md5}: it is damaged or another file; download it again.")


def _idx(file: Path, md5: str) -> UInt8[ndarray, "..."]:
    """Reads the array in an IDX file: two zeros, a type, the number of axes, the lengths of the axes, the bytes."""
    try:
        content = gzip.decompress(file.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file} is damaged ({error}); download it again.") from None
    _check(file, content, md5)
    axes = content[3]
    lengths = np.frombuffer(content, ">i4", axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(lengths)


def _batch(archive: bytes, number: int) -> Images:
    """Reads a batch of the archive: a pickled dictionary with a row of red, green and blue values per image."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as files:
        file = files.extractfile(f"cifar-10-batches-py/data_batch_{number}")
        assert file is not None
        batch = pickle.load(file, encoding="bytes")  # unpickling can run code, so `load` has checked the MD5
    pixels = batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) / np.float32(255)
    return Images(pixels, np.asarray(batch[b"labels"], np.int32))
