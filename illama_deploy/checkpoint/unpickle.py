"""What a pickle holds, without importing, calling or building anything that it names.

Python's own unpickler runs the opcodes; every one that would call something finds here a table instead. Names in the
table are containers (read as dictionaries), the functions that torch writes before a tensor (they give a
`StoredTensor`: nothing is allocated and nothing read yet), and plain values such as numpy's scalars, paths and dates,
which are passed over. Any other name ends the reading.

torch.load(weights_only=True) is not used: it reads optimizer states into memory, allocates whatever size a file of
200 bytes asks for (`bytearray`, `torch.Tensor`, a storage), does not look at checksums, and takes a key twice.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar

import torch

from .stored import DamagedError, RefusedError, StoredTensor, extent

__all__ = ["Arguments", "Storage", "Unpickler"]

#: A pickle beside the tensors is no larger, whatever the optimizer kept in it.
LARGEST = 64 * 2**20
#: Lists and tables that are counted, and how many of them may be open at a time.
MOST, DEEPEST = 500_000, 1_000
#: torch itself knows no more axes than this.
AXES = 64

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "UntypedStorage": None,
}
#: Storages of quantized elements: bytes for each.
QUANTIZED = {"QInt8Storage": 1, "QUInt8Storage": 1, "QInt32Storage": 4, "QUInt4x2Storage": 1, "QUInt2x4Storage": 1}

#: Modules that other versions of Python call otherwise.
SPELLINGS = {"__builtin__": "builtins", "copy_reg": "copyreg", "pathlib._local": "pathlib"}
#: Whose attributes are kept.
NAMESPACES = ("argparse.Namespace", "types.SimpleNamespace")
#: Names of plain values, by module; they are passed over, never looked up.
VALUES: dict[str, str] = {
    "_codecs": "encode",
    "copyreg": "_reconstructor",
    "builtins": "object set frozenset bytearray bytes complex slice range list tuple int float str bool",
    "collections": "deque",
    "datetime": "datetime date time timedelta timezone",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "uuid": "UUID",
    "pathlib": "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath",
    "numpy": "ndarray dtype",
    "numpy.core.multiarray": "scalar _reconstruct",
    "numpy.core.numeric": "_frombuffer",
    "torch": "device Tensor",
    "torch.nn.parameter": "Parameter Buffer",
    "torch.torch_version": "TorchVersion",
    "deepspeed.runtime.fp16.loss_scaler": "LossScaler DynamicLossScaler",
}
#: Names of classes that behave like dictionaries.
TABLES: dict[str, str] = {
    "builtins": "dict",
    "collections": "OrderedDict defaultdict Counter",
    "pytorch_lightning.utilities.parsing": "AttributeDict",
    "lightning.pytorch.utilities.parsing": "AttributeDict",
    "lightning.fabric.utilities.data": "AttributeDict",
    "lightning_fabric.utilities.data": "AttributeDict",
    "easydict": "EasyDict",
    "addict.addict": "Dict",
    "yacs.config": "CfgNode",
}
DTYPE_CLASS = re.compile(r"[A-Z][A-Za-z0-9]+DType")
NAME = re.compile(r"[A-Za-z_][\w.]*")


class Inert(dict[Any, Any]):
    """Stands for a value of a class that is passed over; whatever is put into it may lie there."""

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self is other

    def append(self, item: Any) -> None:
        """Take what a list or deque would."""

    def extend(self, items: Iterable[Any]) -> None:
        """Take what a list would."""

    def add(self, item: Any) -> None:
        """Take what a set would."""


class Arguments(Inert):
    """Stands for a namespace, whose attributes are plain values that a training script kept."""

    attributes: Mapping[Any, Any] = {}


@dataclass(frozen=True)
class Storage:
    """What a pickle says of the memory behind tensors.

    Attributes:
        key: its name in the file.
        dtype: of its elements; None where they have none of their own.
        width: bytes of an element.
        odd: what its elements are instead of plain numbers, or nothing.
        start: elements before it in that memory; only where old files name a part of another storage.
    """

    key: str
    dtype: torch.dtype | None
    width: int
    count: int
    odd: str = ""
    start: int = 0


@dataclass(frozen=True)
class _Name:
    """What a name in a pickle stands for: what is made where it is called, and a value of torch that it is."""

    make: Callable[..., Any]
    value: Any = None


#: Gives how to read a tensor: its storage, first element, element type, shape, and strides.
Locate = Callable[[Storage, int, torch.dtype, tuple[int, ...], tuple[int, ...]], StoredTensor]


# Python's unpickler in Python; typeshed knows no more of it than of the one in C, which has no opcodes to replace.
_Base: Any = pickle._Unpickler
_OPCODES: dict[int, Callable[[Any], None]] = _Base.dispatch


class Unpickler(_Base):  # type: ignore[misc]
    """Reads one pickle.

    Args:
        file: at the pickle's beginning.
        size: bytes that may be read for it.
        storage: makes a `Storage` of a persistent id's fields behind "storage".
        locate: makes a `StoredTensor`.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_OPCODES)

    def __init__(self, file: BinaryIO, size: int, storage: Callable[..., Storage], locate: Locate) -> None:
        self._left = min(size, LARGEST)
        # An empty list is one byte in the file and 64 in memory; an honest pickle puts something into most of them.
        self._containers = min(10_000 + self._left // 4, MOST)
        self._source, self._storage, self._locate = file, storage, locate
        super().__init__(_Bounded(file, self._left), encoding="utf-8", errors="replace")

    def read_value(self) -> Any:
        """The value.

        Raises:
            RefusedError: it names something that is not in the tables.
            DamagedError: it is no pickle, or ends too early.
        """
        try:
            return self.load()
        except (RefusedError, DamagedError):
            raise
        except Exception as error:  # any opcode can fail on what a damaged file holds
            raise DamagedError(f"it is no whole pickle ({type(error).__name__})") from error

    def find_class(self, module: str, name: str) -> _Name:
        module = SPELLINGS.get(module, module).replace("numpy._core.", "numpy.core.")
        full = f"{module}.{name}"
        if full in NAMESPACES:
            return _Name(lambda *arguments: Arguments())
        if name in TABLES.get(module, "").split():
            return _Name(_table)
        if name in VALUES.get(module, "").split() or (module == "numpy.dtypes" and DTYPE_CLASS.fullmatch(name)):
            return _Name(_inert)
        if module == "torch._utils" and (rebuild := getattr(self, f"_make{name}", None)):
            return _Name(rebuild)
        if full == "torch._tensor._rebuild_from_type_v2":
            return _Name(lambda function, kind, arguments, state: self._call(function, arguments))
        if full == "torch.Size":
            return _Name(tuple)
        if full == "torch.serialization._get_layout":
            return _Name(_inert)
        if module in ("torch", "torch.cuda", "torch.storage") and (name in STORAGES or name in QUANTIZED):
            return _Name(_inert, name)
        if module == "torch" and isinstance(value := getattr(torch, name, None), torch.dtype):
            return _Name(_inert, value)
        if module == "torch" and isinstance(value, torch.qscheme | torch.layout | torch.memory_format):
            return _Name(_inert)
        if not NAME.fullmatch(full):
            raise DamagedError("it names what is no name")
        raise RefusedError(full)

    def persistent_load(self, pid: Any) -> Any:
        if not isinstance(pid, tuple) or not pid or pid[0] not in ("storage", b"storage"):
            raise RefusedError("a persistent id that is no storage")
        kind, *others = pid[1:]
        if not isinstance(kind, _Name) or not isinstance(kind.value, str):
            raise DamagedError("a storage has no type")
        dtype, odd = STORAGES.get(kind.value), "quantized" if kind.value in QUANTIZED else ""
        return self._storage(dtype, dtype.itemsize if dtype else QUANTIZED.get(kind.value, 1), odd, *others)

    def get_extension(self, code: int) -> None:
        """Extension codes stand for names that only their writer knows."""
        raise RefusedError(f"extension {code}")

    # --- what torch writes before a tensor

    def _make_rebuild_tensor(self, storage: Any, offset: Any, shape: Any, stride: Any, *others: Any) -> StoredTensor:
        return self._tensor(storage, offset, shape, stride, storage.dtype, "")

    def _make_rebuild_tensor_v2(
        self, storage: Any, offset: Any, shape: Any, stride: Any, grad: Any = None, hooks: Any = None, flags: Any = None
    ) -> StoredTensor:
        return self._tensor(storage, offset, shape, stride, storage.dtype, "conjugated or negated" if flags else "")

    def _make_rebuild_tensor_v3(
        self, storage: Any, offset: Any, shape: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, flags: Any = None
    ) -> StoredTensor:
        kind = dtype.value if isinstance(dtype, _Name) else None
        if not isinstance(kind, torch.dtype):
            raise DamagedError("a tensor has no element type")
        return self._tensor(storage, offset, shape, stride, kind, "conjugated or negated" if flags else "")

    def _make_rebuild_parameter(self, data: Any, *others: Any) -> Any:
        return data

    _make_rebuild_parameter_with_state = _make_rebuild_device_tensor_from_cpu_tensor = _make_rebuild_parameter

    def _make_rebuild_sparse_tensor(self, *arguments: Any) -> StoredTensor:
        return _odd("sparse")

    def _make_rebuild_qtensor(self, *arguments: Any) -> StoredTensor:
        return _odd("quantized")

    def _make_rebuild_meta_tensor_no_storage(self, *arguments: Any) -> StoredTensor:
        return _odd("without values (on the meta device)")

    def _make_rebuild_nested_tensor(self, *arguments: Any) -> StoredTensor:
        return _odd("nested")

    def _make_rebuild_wrapper_subclass(self, *arguments: Any) -> StoredTensor:
        return _odd("of a class of its own")

    _make_rebuild_device_tensor_from_numpy = _make_rebuild_wrapper_subclass

    def _tensor(
        self, storage: Any, offset: Any, shape: Any, stride: Any, dtype: torch.dtype | None, odd: str
    ) -> StoredTensor:
        if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
            raise DamagedError("a tensor has no storage or no shape")
        if any(type(number) is not int or not 0 <= number < 2**62 for number in (offset, *shape, *stride)):
            raise DamagedError("a tensor's shape is no shape")
        if len(shape) != len(stride) or len(shape) > AXES:
            raise DamagedError("a tensor's shape and strides contradict each other")
        if storage.odd or dtype is None:
            return _odd(storage.odd or "untyped")
        count = storage.count if storage.dtype is not None else storage.count // dtype.itemsize
        reach = extent(shape, stride)
        if offset + reach > count:
            raise DamagedError(f"a tensor of {math.prod(shape)} elements lies in a storage of {count}")
        if math.prod(shape) > reach:
            odd = f"expanded ({math.prod(shape)} elements that share {reach} in the file)"
        if odd:
            return _odd(odd, shape)
        return self._locate(storage, offset, dtype, shape, stride)

    # --- opcodes that would call, build or fill something

    def _call(self, name: Any, arguments: Any) -> Any:
        if not isinstance(name, _Name) or not isinstance(arguments, tuple):
            raise RefusedError("a call of something that has no name")
        return name.make(*arguments)

    def _instantiate(self, kind: Any, arguments: Any) -> None:
        self.append(self._call(kind, tuple(arguments)))

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_newobj(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_newobj_ex(self) -> None:
        self.stack.pop()
        self.load_newobj()

    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex

    def load_build(self) -> None:
        state = self.stack.pop()
        if self.stack and isinstance(self.stack[-1], Arguments) and isinstance(state, dict):
            self.stack[-1].attributes = state  # all else here has none

    dispatch[pickle.BUILD[0]] = load_build

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._put(self.stack[-1], [key, value])

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._put(self.stack[-1], items)

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def _put(self, table: Any, items: list[Any]) -> None:
        if not isinstance(table, dict):
            raise DamagedError("entries are put into what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if key in table:
                raise DamagedError(f"the key {str(key)[:80]!r} stands in it twice")
            table[key] = value

    def load_buffer(self) -> None:
        raise RefusedError("a buffer outside the file")

    for _opcode in (pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER):
        dispatch[_opcode[0]] = load_buffer


def _counted(opcode: int, cost: int) -> Callable[[Any], None]:
    original = _OPCODES[opcode]

    def load(self: Unpickler) -> None:
        self._containers -= cost
        if self._containers < 0 or len(self.metastack) > DEEPEST:
            raise DamagedError("it has more lists and tables than a file of its size can hold")
        original(self)

    return load


for _code, _cost in ((pickle.EMPTY_DICT, 1), (pickle.EMPTY_LIST, 1), (pickle.EMPTY_SET, 4), (pickle.MARK, 0)):
    Unpickler.dispatch[_code[0]] = _counted(_code[0], _cost)


class _Bounded:
    """A file of which so many bytes may be read, and never more asked for than it can hold."""

    def __init__(self, file: BinaryIO, left: int) -> None:
        self._file, self._left = file, left

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self._left:
            raise DamagedError("it ends inside a pickle, or the pickle is too large")
        self._left -= size
        return self._file.read(size)

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readline(self) -> bytes:
        line = self._file.readline(self._left)
        self._left -= len(line)
        return line


def _table(*entries: Any) -> dict[Any, Any]:
    """A dictionary; one that old versions wrote as a list of pairs is filled."""
    pairs = entries[0] if entries and isinstance(entries[0], list | dict) else ()
    table: dict[Any, Any] = {}
    for key, value in pairs.items() if isinstance(pairs, dict) else pairs:
        if key in table:
            raise DamagedError(f"the key {str(key)[:80]!r} stands in it twice")
        table[key] = value
    return table


def _inert(*arguments: Any) -> Inert:
    return Inert()


def _odd(what: str, shape: tuple[int, ...] = ()) -> StoredTensor:
    def fetch() -> torch.Tensor:
        raise DamagedError(f"a tensor is {what}")

    return StoredTensor(None, shape, (object(),), 0, fetch, what)
