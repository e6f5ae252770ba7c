use cudarc::driver::{DeviceRepr, ValidAsZeroBits};
use half::{bf16, f16};

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// How values lie in device memory: `f32`, or 16 bits. Sums and parameters are f32 (or wider) everywhere.
pub trait Storage: DeviceRepr + ValidAsZeroBits + Copy + Default + sealed::Sealed + 'static {
    /// How kernels for it are named.
    #[doc(hidden)]
    const SUFFIX: &'static str;
    /// Which of the storage types it is to kernels that take any: `StorageCode` in `kernels/rows.cuh`.
    #[doc(hidden)]
    const CODE: i32;
}

impl Storage for f32 {
    const SUFFIX: &'static str = "f32";
    const CODE: i32 = 0;
}

impl Storage for f16 {
    const SUFFIX: &'static str = "f16";
    const CODE: i32 = 1;
}

impl Storage for bf16 {
    const SUFFIX: &'static str = "bf16";
    const CODE: i32 = 2;
}
