use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice whose parts are handed to tasks that run at the same time.
pub(crate) struct SharedMut<'a, T> {
    data: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: parts handed out do not overlap (contract of `part`), so sharing this is like sending disjoint `&mut [T]`.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub(crate) fn new(data: &'a mut [T]) -> SharedMut<'a, T> {
        SharedMut { data: data.as_mut_ptr(), len: data.len(), lifetime: PhantomData }
    }

    /// A part.
    ///
    /// # Panics
    /// It reaches past the end.
    ///
    /// # Safety
    /// No other part alive at the same time overlaps it.
    #[allow(clippy::mut_from_ref)] // The contract says why.
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part {range:?} of {} elements", self.len);
        // SAFETY: inside the slice this was made of, which is borrowed for 'a; disjointness is the caller's contract.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(range.start), range.len()) }
    }

    /// The first element of a range, for access to elements of it as `part` allows it.
    ///
    /// # Panics
    /// It reaches past the end.
    pub(crate) fn pointer(&self, range: Range<usize>) -> *mut T {
        assert!(range.start <= range.end && range.end <= self.len, "part {range:?} of {} elements", self.len);
        self.data.wrapping_add(range.start)
    }
}
