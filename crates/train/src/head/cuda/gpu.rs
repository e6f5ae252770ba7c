//! The GPU, and copies to and from it.

use std::sync::Arc;

use embedtune_cuda_kernels::cudarc::driver::{CudaSlice, CudaStream, DeviceRepr};
use embedtune_cuda_kernels::{Error as CudaError, Kernels, devices};
use ndarray::{ArrayD, ArrayView2, ArrayViewMut2, IxDyn};

use crate::{Error, Result};

/// A GPU with the kernels, and the stream on which a head computes.
#[derive(Clone)]
pub struct Gpu {
    pub(super) kernels: Arc<Kernels>,
    pub(super) stream: Arc<CudaStream>,
    name: String,
}

impl Gpu {
    /// The first GPU that the driver offers (`CUDA_VISIBLE_DEVICES` chooses among several).
    ///
    /// # Errors
    /// [`Error::Device`]: no driver, no GPU, one of the two too old; each says what to do.
    pub fn first() -> Result<Self> {
        let device =
            devices()?.first().ok_or_else(|| CudaError::NoDevice { reason: "0 devices".to_owned() })?;
        let refused = || CudaError::driver("opening the GPU");
        let context = embedtune_cuda_kernels::context(device.ordinal)?;
        let kernels = Arc::new(Kernels::new(&context)?);
        Ok(Self { kernels, stream: context.new_stream().map_err(refused())?, name: device.name.clone() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Device memory that holds zeros.
    pub(super) fn zeros(&self, len: usize, what: &str) -> Result<CudaSlice<f32>> {
        let action = format!("allocating {} bytes for {what}", len * size_of::<f32>());
        self.stream.alloc_zeros(len).map_err(|e| CudaError::driver(&action)(e).into())
    }

    pub(super) fn upload(&self, values: &ArrayD<f32>, what: &str) -> Result<CudaSlice<f32>> {
        let mut slice = self.zeros(values.len(), what)?;
        let rows = values.as_standard_layout();
        let flat = rows.as_slice().ok_or_else(not_contiguous)?;
        self.stream.memcpy_htod(flat, &mut slice).map_err(CudaError::driver("copying to the GPU"))?;
        Ok(slice)
    }

    pub(super) fn download(&self, slice: &CudaSlice<f32>, shape: &[usize]) -> Result<ArrayD<f32>> {
        let values = self.stream.clone_dtoh(slice).map_err(CudaError::driver("copying from the GPU"))?;
        ArrayD::from_shape_vec(IxDyn(shape), values).map_err(|e| Error::Unsuitable(e.to_string()))
    }
}

fn not_contiguous() -> Error {
    Error::Unsuitable("an array in standard layout is not contiguous".to_owned())
}

/// A buffer that grows with the batch and is kept.
pub(super) struct Buffer<T> {
    slice: Option<CudaSlice<T>>,
    what: &'static str,
}

impl<T: DeviceRepr + embedtune_cuda_kernels::cudarc::driver::ValidAsZeroBits> Buffer<T> {
    pub(super) fn new(what: &'static str) -> Self {
        Self { slice: None, what }
    }

    /// The buffer with at least `len` values, whatever they are.
    pub(super) fn at_least(&mut self, gpu: &Gpu, len: usize) -> Result<&mut CudaSlice<T>> {
        if self.slice.as_ref().is_none_or(|slice| slice.len() < len) {
            // What it held goes first: the two need not fit side by side.
            self.slice = None;
            let action = format!("allocating {} bytes for {}", len * size_of::<T>(), self.what);
            let slice = gpu.stream.alloc_zeros(len.max(1)).map_err(|e| CudaError::driver(&action)(e))?;
            self.slice = Some(slice);
        }
        self.slice.as_mut().ok_or_else(|| Error::Unsuitable(format!("no memory for {}", self.what)))
    }

    /// The buffer with `values` at its start.
    pub(super) fn fill(&mut self, gpu: &Gpu, values: &[T]) -> Result<&CudaSlice<T>> {
        let slice = self.at_least(gpu, values.len())?;
        let mut to = slice.slice_mut(..values.len());
        gpu.stream.memcpy_htod(values, &mut to).map_err(CudaError::driver("copying the batch to the GPU"))?;
        Ok(slice)
    }
}

/// `x` row by row, copied only where it does not lie so already.
pub(super) fn fill_rows<'b>(
    buffer: &'b mut Buffer<f32>,
    gpu: &Gpu,
    x: ArrayView2<'_, f32>,
) -> Result<&'b CudaSlice<f32>> {
    let rows = x.as_standard_layout();
    buffer.fill(gpu, rows.as_slice().ok_or_else(not_contiguous)?)
}

/// The first values of `from` into `to`, whatever its strides.
pub(super) fn copy_rows(gpu: &Gpu, from: &CudaSlice<f32>, mut to: ArrayViewMut2<'_, f32>) -> Result<()> {
    let from = from.slice(..to.len());
    let refused = || CudaError::driver("copying the gradient from the GPU");
    if let Some(flat) = to.as_slice_mut() {
        return Ok(gpu.stream.memcpy_dtoh(&from, flat).map_err(refused())?);
    }
    let values = gpu.stream.clone_dtoh(&from).map_err(refused())?;
    to.iter_mut().zip(values).for_each(|(to, v)| *to = v);
    Ok(())
}
