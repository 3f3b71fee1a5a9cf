"""The limits of code shipping, each with unit and reason."""

from __future__ import annotations

from typing import Final

MB: Final = 1024 * 1024

DATA_FILE_BYTES_MAX: Final = 1 * MB  # a larger data file is data, not code: it stays where it is
BUNDLE_BYTES_MAX: Final = 64 * MB  # unpacked; a bundle travels to each node and lies in its cache
BUNDLE_FILES_MAX: Final = 20_000  # a folder with more is no source tree
PARSED_BYTES_MAX: Final = 4 * MB  # generated sources above this are not searched for imports
BUNDLE_VERSIONS_KEPT: Final = 4  # of one name, so that a client that edits all day does not grow

MAPPED_BYTES_MIN: Final = 64 * 1024  # a smaller buffer of a value is copied sooner than mapped
CODE_CACHE_ENTRIES: Final = 4096  # packed callables a client remembers; the oldest half goes at once
NEEDS_CACHE_ENTRIES: Final = 256  # sets of modules whose bundles a client remembers
RELOAD_CHECK_S: Final = 0.25  # how late the reload of a module that is used only indirectly is noticed
SNAPSHOT_PARTS_MAX: Final = 200  # functions and classes reached; checking more costs about as much as packing anew
SNAPSHOT_ITEMS_MAX: Final = 1000  # of a captured tuple that are looked at

PLAIN_ARGS_MAX: Final = 16  # more arguments than this are pickled at once, so that a batch's size can be known
PLAIN_CHARS_MAX: Final = 1024  # of a string or bytes argument
PLAIN_INT_MAX: Final = 1 << 63  # larger integers are pickled: MessagePack has none
SIMPLE_ITEMS_MAX: Final = 256  # looked at to see whether the C pickler alone will do; 30 ns each
SIZED_ITEMS_MAX: Final = 100  # of a container argument that are measured for the estimate

LOADED_CODE_MAX: Final = 256  # callables a slot keeps
LOADED_CODE_BYTES_MAX: Final = 64 * MB  # packed, of all of them; the newest stays however large it is
TRACEBACK_CHARS_MAX: Final = 128 * 1024  # of a remote traceback; its end is what counts
CHAIN_MAX: Final = 100  # causes and contexts of an exception that travel with it
