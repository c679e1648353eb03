//! The one door to shared-memory primitives, so that `ring.rs` and `table.rs` can be run under loom
//! unchanged: `--cfg loom` swaps std's atomics for loom's, which try every interleaving and every
//! value the memory model allows (`tests/loom`).
//!
//! Loom sees atomics and its own cells, but not plain memory behind raw pointers. [`Shadow`] fills
//! that gap: a range of cells beside the real memory, touched wherever the real memory is. Outside
//! loom it has no size and its methods no code.
//!
//! Only what those two files share belongs here; anything else uses std or crossbeam directly.

#[cfg(loom)]
pub use loom::sync::{Arc, atomic};
#[cfg(not(loom))]
pub use std::sync::{Arc, atomic};

pub use shadow::Shadow;

#[cfg(not(loom))]
mod shadow {
    /// Stands beside memory that threads share; see the module.
    #[derive(Clone)]
    pub struct Shadow;

    impl Shadow {
        /// Covers `cells` units of the memory, which is alive from here on.
        #[inline(always)]
        pub fn new(_cells: usize) -> Self {
            Self
        }

        /// The memory behind these cells is being read: the first one and how many, counted round the end.
        #[inline(always)]
        pub fn read(&self, _cells: (usize, usize)) {}

        /// The memory behind these cells is being written.
        #[inline(always)]
        pub fn write(&self, _cells: (usize, usize)) {}

        /// All of the memory is being freed: that no access is concurrent and none comes after.
        #[inline(always)]
        pub fn free(&self) {}
    }
}

#[cfg(loom)]
mod shadow {
    use std::sync::atomic::{AtomicBool, Ordering};

    use loom::alloc::Track;
    use loom::cell::UnsafeCell;

    /// Stands beside memory that threads share; see the module. Clones outlive the memory, so that
    /// a use after free is a failed assertion and not one itself. Neither `Arc` nor `AtomicBool` is
    /// loom's: they must not add orderings that the real code does not have.
    #[derive(Clone)]
    pub struct Shadow(std::sync::Arc<Inner>);

    struct Inner {
        cells: Vec<UnsafeCell<()>>,
        freed: AtomicBool,
        /// Makes loom report memory that was not freed by the end of an execution.
        _leak: Track<()>,
    }

    impl Shadow {
        #[expect(clippy::arc_with_non_send_sync, reason = "loom runs all threads of a model on one")]
        pub fn new(cells: usize) -> Self {
            Self(std::sync::Arc::new(Inner {
                cells: (0..cells).map(|_| UnsafeCell::new(())).collect(),
                freed: AtomicBool::new(false),
                _leak: Track::new(()),
            }))
        }

        fn assert_alive(&self) {
            assert!(!self.0.freed.load(Ordering::SeqCst), "use after free");
        }

        fn each(&self, (first, count): (usize, usize)) -> impl Iterator<Item = &UnsafeCell<()>> {
            self.0.cells.iter().cycle().skip(first % self.0.cells.len()).take(count)
        }

        pub fn read(&self, cells: (usize, usize)) {
            self.assert_alive();
            self.each(cells).for_each(|cell| cell.with(|_| ()));
        }

        pub fn write(&self, cells: (usize, usize)) {
            self.assert_alive();
            self.each(cells).for_each(|cell| cell.with_mut(|_| ()));
        }

        pub fn free(&self) {
            self.write((0, self.0.cells.len()));
            self.0.freed.store(true, Ordering::SeqCst);
        }
    }
}
