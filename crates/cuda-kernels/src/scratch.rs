//! Device memory of a call's own.

use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceSlice, SyncOnDrop};

/// Memory that is used on the stream on which it was allocated, where everything goes in order: allocated, used, freed. So no event
/// need tell when it may be used, of which cudarc would record one, and wait for one, for each argument of each launch; it
/// does so once for each allocation and each end of one.
pub(crate) struct Scratch<T> {
    slice: CudaSlice<T>,
    pointer: CUdeviceptr,
}

impl<T> Scratch<T> {
    pub(crate) fn new(slice: CudaSlice<T>) -> Self {
        let pointer = slice.device_ptr(slice.stream()).0;
        Self { slice, pointer }
    }

    pub(crate) fn len(&self) -> usize {
        self.slice.len()
    }

    fn is_of(&self, stream: &CudaStream) -> bool {
        stream.cu_stream() == self.slice.stream().cu_stream()
    }

    /// The pointer for work on `stream`. Another stream than the memory's own waits for all that this was given so far, and the
    /// host for that work, so that what comes next on the own one comes after it.
    fn on<'a>(&self, stream: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
        if self.is_of(stream) {
            return (self.pointer, SyncOnDrop::Record(None));
        }
        let joined = stream.join(self.slice.stream());
        stream.context().record_err(joined);
        (self.pointer, SyncOnDrop::Sync(Some(stream)))
    }
}

impl<T> DeviceSlice<T> for Scratch<T> {
    fn len(&self) -> usize {
        self.slice.len()
    }

    fn stream(&self) -> &Arc<CudaStream> {
        self.slice.stream()
    }
}

impl<T> DevicePtr<T> for Scratch<T> {
    fn device_ptr<'a>(&'a self, stream: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
        self.on(stream)
    }
}

impl<T> DevicePtrMut<T> for Scratch<T> {
    fn device_ptr_mut<'a>(&'a mut self, stream: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
        self.on(stream)
    }
}
