"""Stands for `ctypes`, which CPython for WASI does not have: sizes of C's types. There is no library that could be called."""

_NO_CODE = "a worker cannot call native code: ctypes has sizes of C's types only"


class _Type:
    _size_ = 4

    def __init__(self, value=0):
        self.value = value

    def __repr__(self):
        return f"{type(self).__name__}({self.value!r})"


def _types(**sizes):
    for name, size in sizes.items():
        globals()[name] = type(name, (_Type,), {"_size_": size, "__module__": __name__})


# Of wasm32.
_types(c_bool=1, c_byte=1, c_ubyte=1, c_char=1, c_short=2, c_ushort=2, c_int=4, c_uint=4, c_long=4, c_ulong=4)
_types(c_longlong=8, c_ulonglong=8, c_int8=1, c_uint8=1, c_int16=2, c_uint16=2, c_int32=4, c_uint32=4, c_int64=8)
_types(c_uint64=8, c_size_t=4, c_ssize_t=4, c_time_t=8, c_float=4, c_double=8, c_longdouble=16, c_wchar=4)
_types(c_void_p=4, c_char_p=4, c_wchar_p=4, py_object=4)


def sizeof(kind):
    try:
        return kind._size_
    except AttributeError:
        raise TypeError("this type has no size") from None


alignment = sizeof


class ArgumentError(Exception):
    pass


class Structure:
    def __init__(self, *args, **options):
        raise OSError(_NO_CODE)


class Union(Structure):
    pass


class BigEndianStructure(Structure):
    pass


class LittleEndianStructure(Structure):
    pass


class CDLL:
    def __init__(self, *args, **options):
        raise OSError(_NO_CODE)


class PyDLL(CDLL):
    pass


class LibraryLoader:
    def __init__(self, kind):
        self._kind = kind

    def LoadLibrary(self, name):
        return self._kind(name)

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return self._kind(name)


cdll, pydll = LibraryLoader(CDLL), LibraryLoader(PyDLL)


class pythonapi:
    pass


def _refuse(*args, **options):
    raise OSError(_NO_CODE)


def _pointer_type(kind):
    return type(f"LP_{getattr(kind, '__name__', kind)}", (c_void_p,), {})


POINTER = _pointer_type


def CFUNCTYPE(result, *arguments, **options):
    return type("CFunctionType", (c_void_p,), {"__init__": _refuse})


PYFUNCTYPE = CFUNCTYPE
DEFAULT_MODE = RTLD_GLOBAL = RTLD_LOCAL = 0
addressof = byref = cast = create_string_buffer = create_unicode_buffer = get_errno = memmove = memset = pointer = resize = _refuse
set_errno = string_at = wstring_at = c_buffer = _refuse
