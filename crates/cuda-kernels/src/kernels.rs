//! The compiled kernels of one context, and the one place that launches them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr,
    LaunchConfig, PushKernelArg, SyncOnDrop,
};
use cudarc::nvrtc::Ptx;

use crate::cublas::Cublas;
use crate::margin::jobs::{Bulk, Gradients, Step, UnitTile, Weighting};
use crate::margin::{Choices, MarginArgument};
use crate::pooling::{GemArgument, Staging};
use crate::scratch::Scratch;
use crate::{Error, Result};

/// The PTX of every source in `kernels/`, by name; `build-kernels.sh` writes it.
const MODULES: [(&str, &str); 17] = [
    ("rows", include_str!("../ptx/rows.ptx")),
    ("margin_forward", include_str!("../ptx/margin_forward.ptx")),
    ("margin_loss", include_str!("../ptx/margin_loss.ptx")),
    ("margin_shares", include_str!("../ptx/margin_shares.ptx")),
    ("margin_shares_subs", include_str!("../ptx/margin_shares_subs.ptx")),
    ("margin_gradients", include_str!("../ptx/margin_gradients.ptx")),
    ("margin_tile", include_str!("../ptx/margin_tile.ptx")),
    ("margin_rows", include_str!("../ptx/margin_rows.ptx")),
    ("optimizer", include_str!("../ptx/optimizer.ptx")),
    ("triplet_distance", include_str!("../ptx/triplet_distance.ptx")),
    ("triplet_count", include_str!("../ptx/triplet_count.ptx")),
    ("triplet_pairs", include_str!("../ptx/triplet_pairs.ptx")),
    ("triplet_hardest", include_str!("../ptx/triplet_hardest.ptx")),
    ("pool_gem", include_str!("../ptx/pool_gem.ptx")),
    ("pool_maps", include_str!("../ptx/pool_maps.ptx")),
    ("pool_short", include_str!("../ptx/pool_short.ptx")),
    ("pool_tokens", include_str!("../ptx/pool_tokens.ptx")),
];

/// The first devices with what the kernels use: asynchronous copies, bf16.
const LEAST_CAPABILITY: (i32, i32) = (8, 0);
/// Dynamic shared memory that needs no asking.
const PLAIN_SHARED: u32 = 48 << 10;

/// The kernels, for one context. Each source is loaded (and compiled by the driver, which keeps the result) when one of
/// its kernels is first launched. Cheap to share: `Arc<Kernels>`.
pub struct Kernels {
    context: Arc<CudaContext>,
    shared_limit: u32,
    modules: Mutex<HashMap<&'static str, Arc<CudaModule>>>,
    functions: Mutex<HashMap<String, Arc<Function>>>,
    pub(crate) cublas: Cublas,
    pub(crate) choices: Choices,
}

struct Function {
    handle: CudaFunction,
    /// The types of its parameters, as the PTX declares them.
    parameters: Vec<String>,
}

/// One argument of a kernel.
#[derive(Clone, Copy)]
pub(crate) enum Arg {
    Pointer(u64),
    Int(i32),
    Long(i64),
    Float(f32),
    Double(f64),
    Margin(MarginArgument),
    Gem(GemArgument),
    Staging(Staging),
    Unit(UnitTile),
    Weighting(Weighting),
    Bulk(Bulk),
    Step(Step),
    Gradients(Gradients),
}

impl Arg {
    pub(crate) const NULL: Self = Self::Pointer(0);

    /// The PTX type of a parameter that takes it.
    fn declared(&self) -> String {
        match self {
            Self::Pointer(_) | Self::Long(_) => "u64".to_owned(),
            Self::Int(_) => "u32".to_owned(),
            Self::Float(_) => "f32".to_owned(),
            Self::Double(_) => "f64".to_owned(),
            Self::Margin(value) => structure(value),
            Self::Gem(value) => structure(value),
            Self::Staging(value) => structure(value),
            Self::Unit(value) => structure(value),
            Self::Weighting(value) => structure(value),
            Self::Bulk(value) => structure(value),
            Self::Step(value) => structure(value),
            Self::Gradients(value) => structure(value),
        }
    }
}

fn structure<T>(_: &T) -> String {
    format!("b8[{}]", size_of::<T>())
}

/// Arguments in their order, and what keeps the buffers behind them until the launch.
#[derive(Default)]
pub(crate) struct Args<'a> {
    values: Vec<Arg>,
    guards: Vec<SyncOnDrop<'a>>,
}

impl<'a> Args<'a> {
    pub(crate) fn read<T>(mut self, buffer: &'a impl DevicePtr<T>, stream: &'a CudaStream) -> Self {
        let (pointer, guard) = buffer.device_ptr(stream);
        self.values.push(Arg::Pointer(pointer));
        self.guards.push(guard);
        self
    }

    pub(crate) fn write<T>(mut self, buffer: &'a mut impl DevicePtrMut<T>, stream: &'a CudaStream) -> Self {
        let (pointer, guard) = buffer.device_ptr_mut(stream);
        self.values.push(Arg::Pointer(pointer));
        self.guards.push(guard);
        self
    }

    pub(crate) fn optional<T>(self, buffer: Option<&'a impl DevicePtr<T>>, stream: &'a CudaStream) -> Self {
        match buffer {
            Some(buffer) => self.read(buffer, stream),
            None => self.arg(Arg::NULL),
        }
    }

    /// Where a buffer lies, for a structure that goes with [`Args::arg`]: kept on this stream like any other argument.
    pub(crate) fn at<T>(&mut self, buffer: &'a impl DevicePtr<T>, stream: &'a CudaStream) -> u64 {
        let (pointer, guard) = buffer.device_ptr(stream);
        self.guards.push(guard);
        pointer
    }

    /// The same of a buffer that is written.
    pub(crate) fn at_mut<T>(&mut self, buffer: &'a mut impl DevicePtrMut<T>, stream: &'a CudaStream) -> u64 {
        let (pointer, guard) = buffer.device_ptr_mut(stream);
        self.guards.push(guard);
        pointer
    }

    pub(crate) fn arg(mut self, value: Arg) -> Self {
        self.values.push(value);
        self
    }

    pub(crate) fn floats(self, values: &[f32]) -> Self {
        values.iter().fold(self, |args, &value| args.arg(Arg::Float(value)))
    }

    pub(crate) fn int(self, value: usize) -> Self {
        self.arg(Arg::Int(crate::check::int(value)))
    }

    pub(crate) fn flag(self, value: bool) -> Self {
        self.arg(Arg::Int(i32::from(value)))
    }
}

/// Blocks of a launch and what each has.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) grid: [usize; 3],
    pub(crate) threads: u32,
    pub(crate) shared: u32,
}

impl Shape {
    pub(crate) fn blocks(grid: [usize; 3], threads: u32) -> Self {
        Self { grid, threads, shared: 0 }
    }

    /// A warp for each of `rows`, in blocks of 256 threads.
    pub(crate) fn warps(rows: usize) -> Self {
        Self::blocks([rows.div_ceil(8), 1, 1], 256)
    }
}

impl Kernels {
    /// For `context`. Loads nothing yet.
    ///
    /// # Errors
    /// [`Error::DeviceTooOld`] below compute capability 8.0 (Ampere); what the driver says.
    pub fn new(context: &Arc<CudaContext>) -> Result<Self> {
        let asking = "reading the GPU's attributes";
        let capability = context.compute_capability().map_err(Error::driver(asking))?;
        if capability < LEAST_CAPABILITY {
            return Err(Error::DeviceTooOld { capability, needs: LEAST_CAPABILITY });
        }
        let limit = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let limit = context.attribute(limit).map_err(Error::driver(asking))?;
        Ok(Self {
            context: context.clone(),
            shared_limit: u32::try_from(limit).unwrap_or(PLAIN_SHARED),
            modules: Mutex::default(),
            functions: Mutex::default(),
            cublas: Cublas::default(),
            choices: Choices::default(),
        })
    }

    /// Whether cuBLAS can be had, which [`Products`](crate::margin::Products) may use. Looks for it once it is asked.
    ///
    /// # Errors
    /// [`Error::NoCublas`] with what was tried; [`Error::OutOfMemory`].
    pub fn cublas(&self) -> Result<()> {
        self.cublas.open(&self.context)
    }

    /// The context.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// `len` values of device memory with nothing in them, at least one, to be used on `stream`.
    pub(crate) fn allocate<T: DeviceRepr>(
        &self,
        stream: &Arc<CudaStream>,
        len: usize,
        what: &str,
    ) -> Result<Scratch<T>> {
        self.allocate_kept(stream, len, what).map(Scratch::new)
    }

    /// The same for what is kept, and may be used on another stream later.
    pub(crate) fn allocate_kept<T: DeviceRepr>(
        &self,
        stream: &Arc<CudaStream>,
        len: usize,
        what: &str,
    ) -> Result<CudaSlice<T>> {
        let action = format!("allocating {} bytes for {what}", len * size_of::<T>());
        // SAFETY: plain numbers; every buffer is written by a kernel or a copy before one reads it (the emulator fills
        // fresh memory with NaN to prove it).
        #[expect(unsafe_code, reason = "memory that is about to be overwritten need not be cleared")]
        unsafe { stream.alloc(len.max(1)) }.map_err(Error::driver(&action))
    }

    /// Launches a kernel after checking its arguments against the parameters that its PTX declares.
    pub(crate) fn launch(
        &self,
        stream: &Arc<CudaStream>,
        name: &str,
        shape: Shape,
        args: Args<'_>,
    ) -> Result<()> {
        let function = self.function(name, shape.shared)?;
        let given: Vec<String> = args.values.iter().map(Arg::declared).collect();
        if given != function.parameters {
            let reason = format!("it takes ({}), got ({})", function.parameters.join(", "), given.join(", "));
            return Err(Error::Launch { kernel: name.to_owned(), reason });
        }
        let [x, y, z] = shape.grid.map(|blocks| u32::try_from(blocks).unwrap_or(u32::MAX));
        let config = LaunchConfig {
            grid_dim: (x, y, z),
            block_dim: (shape.threads, 1, 1),
            shared_mem_bytes: shape.shared,
        };
        let mut builder = stream.launch_builder(&function.handle);
        for value in &args.values {
            match value {
                Arg::Pointer(v) => builder.arg(v),
                Arg::Int(v) => builder.arg(v),
                Arg::Long(v) => builder.arg(v),
                Arg::Float(v) => builder.arg(v),
                Arg::Double(v) => builder.arg(v),
                Arg::Margin(v) => builder.arg(v),
                Arg::Gem(v) => builder.arg(v),
                Arg::Staging(v) => builder.arg(v),
                Arg::Unit(v) => builder.arg(v),
                Arg::Weighting(v) => builder.arg(v),
                Arg::Bulk(v) => builder.arg(v),
                Arg::Step(v) => builder.arg(v),
                Arg::Gradients(v) => builder.arg(v),
            };
        }
        // SAFETY: the argument types are the kernel's (checked above); pointers come from live slices that `args` keeps
        // on this stream until after the launch, and whose lengths the callers checked against the sizes they pass.
        #[expect(unsafe_code, reason = "a kernel launch cannot be checked by the compiler")]
        let launched = unsafe { builder.launch(config) };
        launched.map_err(Error::launch(name))?;
        Ok(())
    }

    fn function(&self, name: &str, shared: u32) -> Result<Arc<Function>> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(name) {
            return Ok(function.clone());
        }
        let missing = || Error::Launch { kernel: name.to_owned(), reason: "no such kernel".to_owned() };
        let (source, text, parameters) = MODULES
            .iter()
            .find_map(|&(source, text)| parameters(text, name).map(|found| (source, text, found)))
            .ok_or_else(missing)?;
        let handle = self.module(source, text)?.load_function(name).map_err(Error::launch(name))?;
        if shared > PLAIN_SHARED {
            if shared > self.shared_limit {
                let reason = format!(
                    "it needs {shared} bytes of shared memory a block, this GPU has {}",
                    self.shared_limit
                );
                return Err(Error::Launch { kernel: name.to_owned(), reason });
            }
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = crate::check::int(shared as usize);
            handle.set_attribute(attribute, bytes).map_err(Error::launch(name))?;
        }
        let function = Arc::new(Function { handle, parameters });
        functions.insert(name.to_owned(), function.clone());
        Ok(function)
    }

    fn module(&self, source: &'static str, text: &str) -> Result<Arc<CudaModule>> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(source) {
            return Ok(module.clone());
        }
        let action = format!("loading the kernels of {source}");
        let module = self.context.load_module(Ptx::from_src(text)).map_err(Error::driver(&action))?;
        modules.insert(source, module.clone());
        Ok(module)
    }
}

/// The parameter types of a kernel in PTX text: `u64` and so on, `b8[N]` for structures. `None` if it is not there.
fn parameters(text: &str, name: &str) -> Option<Vec<String>> {
    let start = text.find(&format!(".entry {name}("))?;
    let list = text[start..].split_once('(')?.1.split_once(')')?.0;
    Some(
        list.split(',')
            .filter_map(|declared| {
                let mut words = declared.split_whitespace().skip_while(|word| *word != ".param").skip(1);
                let mut kind = words.next()?;
                while kind == ".align" {
                    words.next();
                    kind = words.next()?;
                }
                let bytes = words.next().and_then(|name| name.split_once('[')).map(|(_, bytes)| bytes);
                let kind = kind.trim_start_matches('.');
                Some(bytes.map_or_else(|| kind.to_owned(), |bytes| format!("{kind}[{bytes}")))
            })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_from_the_text() {
        let text = ".visible .entry scale(\n\t.param .u64 scale_param_0,\n\t.param .align 8 .b8 scale_param_1[48],\n\
                    \t.param .f32 scale_param_2\n)\n{";
        assert_eq!(parameters(text, "scale").unwrap(), ["u64", "b8[48]", "f32"]);
        assert_eq!(parameters(text, "scal"), None);
    }

    #[test]
    fn every_module_holds_kernels_for_the_stated_driver() {
        for (name, text) in MODULES {
            assert!(text.contains(".entry "), "{name}");
            assert!(text.contains(".version 8.0") && text.contains(".target sm_80"), "{name}");
        }
    }
}
