//! The small tasks around the products, as the kernels take them: structures of pointers and sizes that mirror those of
//! `kernels/rows.cuh`, `target.cuh`, `centres.cuh` and `margin_gradients.cu`.

use cudarc::driver::DeviceRepr;

/// A tile of centres that becomes unit rows.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct UnitTile {
    pub(super) values: u64,
    pub(super) high: u64,
    pub(super) low: u64,
    pub(super) again: u64,
    pub(super) norms: u64,
    pub(super) storage: i32,
    pub(super) rows: i32,
    pub(super) classes: i32,
    pub(super) dim: i32,
    pub(super) padded: i32,
    pub(super) subs: i32,
    pub(super) pitch: i32,
    pub(super) width: i32,
}

/// What the losses allow of each row before any centre moves.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Weighting {
    pub(super) x: u64,
    pub(super) w: u64,
    pub(super) labels: u64,
    pub(super) targets: u64,
    pub(super) sigma: u64,
    pub(super) column: u64,
    pub(super) high: u64,
    pub(super) low: u64,
    pub(super) dx: u64,
    pub(super) scale: f64,
    pub(super) storage: i32,
    pub(super) n: i32,
    pub(super) dim: i32,
    pub(super) padded: i32,
    pub(super) width: i32,
    pub(super) classes: i32,
    pub(super) subs: i32,
    pub(super) sphere: i32,
    pub(super) accumulate: i32,
    pub(super) unused: i32,
}

/// The bulk's part of the embeddings' gradient.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Bulk {
    pub(super) x: u64,
    pub(super) targets: u64,
    pub(super) sigma: u64,
    pub(super) raw: u64,
    pub(super) dx: u64,
    pub(super) scale: f64,
    pub(super) n: i32,
    pub(super) dim: i32,
    pub(super) padded: i32,
    pub(super) parts: i32,
    pub(super) sphere: i32,
    pub(super) unused: i32,
}

/// What becomes of a tile of centres.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Step {
    pub(super) raw: u64,
    pub(super) norms: u64,
    pub(super) x: u64,
    pub(super) targets: u64,
    pub(super) sigma: u64,
    pub(super) stats: u64,
    pub(super) order: u64,
    pub(super) sorted: u64,
    pub(super) w: u64,
    pub(super) first: u64,
    pub(super) second: u64,
    pub(super) tops: u64,
    pub(super) scale: f64,
    pub(super) numbers: [f32; 8],
    pub(super) kind: i32,
    pub(super) storage: i32,
    pub(super) centres: i32,
    pub(super) flag: i32,
    pub(super) n: i32,
    pub(super) dim: i32,
    pub(super) padded: i32,
    pub(super) first_class: i32,
    pub(super) subs: i32,
    pub(super) pitch: i32,
    pub(super) sphere: i32,
    pub(super) unused: i32,
}

/// [`Step::kind`]: the gradient is written to `first`; otherwise an optimizer's step.
pub(super) const GRADIENT: i32 = 0;
pub(super) const SGD: i32 = 1;
pub(super) const ADAM: i32 = 2;

/// The two products of a tile.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Gradients {
    pub(super) embeddings: u64,
    pub(super) centres: u64,
    pub(super) n: i32,
    pub(super) classes: i32,
    pub(super) padded: i32,
    pub(super) pitch: i32,
    pub(super) parts: i32,
    pub(super) share: i32,
    pub(super) add: i32,
    pub(super) unused: i32,
}

/// Structures of plain numbers.
macro_rules! arguments {
    ($($name:ident),*) => {$(
        // SAFETY: plain numbers, laid out as the kernels declare them.
        #[expect(unsafe_code, reason = "what says that a structure may be a kernel's argument")]
        unsafe impl DeviceRepr for $name {}
    )*};
}
arguments!(UnitTile, Weighting, Bulk, Step, Gradients);

/// Whether a kernel can load four values at a time from `address` on in rows of `dim` f32.
fn in_fours(address: u64, dim: i32) -> bool {
    dim % 4 == 0 && address.is_multiple_of(16)
}

/// Whether kernels of products take a task beside them: the conditions of `beside.cuh`.
impl UnitTile {
    pub(super) fn fits_beside(&self) -> bool {
        self.storage == 0 && in_fours(self.values, self.dim)
    }
}

impl Weighting {
    pub(super) fn fits_beside(&self) -> bool {
        self.storage == 0 && [self.x, self.w, self.dx].iter().all(|&at| in_fours(at, self.dim))
    }
}

impl Step {
    pub(super) fn fits_beside(&self) -> bool {
        self.storage == 0
            && [self.w, self.first, self.second, self.tops].iter().all(|&at| in_fours(at, self.dim))
    }
}
