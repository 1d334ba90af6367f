"""Which GPUs CUDA would give a process with this environment, without torch.

The management library (NVML), which tells how GPUs do, numbers all of them by their places on the bus. CUDA
begins with the fastest, and CUDA_VISIBLE_DEVICES may leave some out or order them otherwise. Both know UUIDs.
"""

from __future__ import annotations

import ctypes
import uuid

LIBRARY = "libcuda.so.1"
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


def visible(library: str = LIBRARY) -> list[str] | None:
    """The UUIDs of GPUs or of slices (MIG) of one, CUDA's first one first; None when the driver does not say.

    Opens the driver in this process for good.
    """
    try:
        driver = ctypes.CDLL(library)
        status = driver.cuInit(0)
        if status:
            return [] if status == NO_DEVICE else None
        count = ctypes.c_int()
        driver.cuDeviceGetCount(ctypes.byref(count))
        return [_uuid(driver, number) for number in range(count.value)]
    except (OSError, AttributeError):  # no such library, or none of its functions
        return None


def _uuid(driver: ctypes.CDLL, number: int) -> str:
    device, found = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    driver.cuDeviceGet(ctypes.byref(device), number)
    driver.cuDeviceGetUuid_v2(ctypes.byref(found), device)  # the first version knows no slices
    return str(uuid.UUID(bytes=bytes(found)))
