//! Device memory of a call's own.

use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceSlice, SyncOnDrop};

/// Memory that is used on the stream on which it was allocated, where everything goes in order: allocated, used, freed. So no event
/// need tell when it may be used, of which cudarc would record one, and wait for one, for each argument of each
/// launch.
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

    /// Another stream waits for all that this memory's own was given so far.
    fn join(&self, stream: &CudaStream) {
        let joined = stream.join(self.slice.stream());
        stream.context().record_err(joined);
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
        if self.is_of(stream) {
            return (self.pointer, SyncOnDrop::Record(None));
        }
        self.join(stream);
        self.slice.device_ptr(stream)
    }
}

impl<T> DevicePtrMut<T> for Scratch<T> {
    fn device_ptr_mut<'a>(&'a mut self, stream: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
        if self.is_of(stream) {
            return (self.pointer, SyncOnDrop::Record(None));
        }
        self.join(stream);
        self.slice.device_ptr_mut(stream)
    }
}
