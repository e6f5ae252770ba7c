//! The device that the tests in the second process use: the emulated one, or a GPU.

use std::sync::{Arc, OnceLock};

use embedtune_cuda_kernels::Kernels;
use embedtune_cuda_kernels::cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits,
};
use libloading::Library;

pub(crate) struct Device {
    pub(crate) kernels: Arc<Kernels>,
    pub(crate) stream: Arc<CudaStream>,
}

/// Schedules under which results must not differ: name, and what `emulator_schedule` takes.
pub(crate) const SCHEDULES: [(&str, u32); 5] =
    [("forward", 1), ("reverse", 2), ("lockstep", 0), ("random 1", 3 | 1 << 8), ("random 2", 3 | 2 << 8)];

impl Device {
    pub(crate) fn new() -> Self {
        let found = embedtune_cuda_kernels::devices();
        assert!(found.is_ok(), "{}", found.unwrap_err());
        let context = CudaContext::new(0).unwrap();
        let kernels = Arc::new(Kernels::new(&context).unwrap());
        Self { kernels, stream: context.new_stream().unwrap() }
    }

    pub(crate) fn upload<T: DeviceRepr>(&self, values: &[T]) -> CudaSlice<T> {
        self.stream.clone_htod(values).unwrap()
    }

    pub(crate) fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, len: usize) -> CudaSlice<T> {
        self.stream.alloc_zeros(len).unwrap()
    }

    /// NaN, where it is the emulator's: what nobody writes shows.
    pub(crate) fn poisoned(&self, len: usize) -> CudaSlice<f32> {
        self.upload(&vec![f32::NAN; len])
    }

    pub(crate) fn download<T: DeviceRepr>(&self, values: &CudaSlice<T>) -> Vec<T> {
        self.stream.clone_dtoh(values).unwrap()
    }
}

/// The stand-in driver, already loaded by cudarc; `None` on a GPU.
fn stand_in() -> Option<&'static Library> {
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    let find = || {
        // SAFETY: cudarc has loaded it; this only finds it again.
        let library = unsafe { Library::new("libcuda.so.1") }.ok()?;
        // SAFETY: only asks whether it is there.
        let set = unsafe { library.get::<unsafe extern "C" fn(u32)>(b"emulator_schedule\0") }.is_ok();
        set.then_some(library)
    };
    LIBRARY.get_or_init(find).as_ref()
}

fn set_schedule(schedule: u32) {
    if let Some(library) = stand_in() {
        // SAFETY: as `emulator.h` declares it.
        let set = unsafe { library.get::<unsafe extern "C" fn(u32)>(b"emulator_schedule\0") }.unwrap();
        // SAFETY: it takes any number.
        unsafe { set(schedule) };
    }
}

/// A number that the stand-in driver tells; `None` on a GPU.
fn told(symbol: &[u8]) -> Option<usize> {
    // SAFETY: as `driver.cpp` declares them.
    let number = unsafe { stand_in()?.get::<unsafe extern "C" fn() -> usize>(symbol) }.unwrap();
    // SAFETY: it takes nothing.
    Some(unsafe { number() })
}

/// Bytes of device memory in use; `None` on a GPU.
pub(crate) fn memory_used() -> Option<usize> {
    told(b"emulated_memory_used\0")
}

/// The most that was in use since the last call; `None` on a GPU.
pub(crate) fn memory_peak() -> Option<usize> {
    told(b"emulated_memory_peak\0")
}

/// Runs `compute` under every schedule, checks that all give the same bits, and returns them.
pub(crate) fn under_all_schedules(what: &str, mut compute: impl FnMut() -> Vec<Vec<f32>>) -> Vec<Vec<f32>> {
    let bits = |values: &[Vec<f32>]| -> Vec<Vec<u32>> {
        values.iter().map(|v| v.iter().map(|v| v.to_bits()).collect()).collect()
    };
    let mut first: Option<Vec<Vec<f32>>> = None;
    for (name, schedule) in SCHEDULES {
        set_schedule(schedule);
        let result = compute();
        match &first {
            None => first = Some(result),
            Some(first) => {
                assert!(bits(first) == bits(&result), "{what}: the schedule {name} changes the bits")
            }
        }
    }
    set_schedule(SCHEDULES[0].1);
    first.unwrap()
}

/// Largest difference between `got` and `expected`, over the largest magnitude expected (or `least`, if that is larger).
/// NaN counts as infinite.
pub(crate) fn error(got: &[f32], expected: &[f64], least: f64) -> f64 {
    assert_eq!(got.len(), expected.len());
    let size = expected.iter().fold(least, |most, v| most.max(v.abs()));
    got.iter().zip(expected).fold(0.0f64, |most, (&got, &expected)| {
        let difference = (f64::from(got) - expected).abs();
        if difference.is_nan() { f64::INFINITY } else { most.max(difference / size) }
    })
}

#[track_caller]
pub(crate) fn assert_near(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_near_of(what, got, expected, tolerance, 1e-300);
}

#[track_caller]
pub(crate) fn assert_near_of(what: &str, got: &[f32], expected: &[f64], tolerance: f64, least: f64) {
    let error = error(got, expected, least);
    println!("{what}: {error:.2e} (at most {tolerance:.0e})");
    assert!(error <= tolerance, "{what}: off by {error:.3e} of the largest value, at most {tolerance:.0e}");
}

/// Events recorded since this was last asked; nothing on a GPU.
pub(crate) fn events() -> Option<usize> {
    told(b"emulated_events\0")
}

/// Kernels launched since this was last asked; nothing on a GPU.
pub(crate) fn launches() -> Option<usize> {
    told(b"emulated_launches\0")
}
