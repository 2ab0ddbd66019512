//! Memory of zeros, which takes none of the system's until it is written.

use crate::error::KernelError;

/// Numbers whose zero is all bits zero.
///
/// # Safety
/// Bytes of zeros are a valid value.
pub unsafe trait Zero: Copy {}

// SAFETY: plain numbers.
unsafe impl Zero for u8 {}
// SAFETY: as above.
unsafe impl Zero for u32 {}
// SAFETY: as above.
unsafe impl Zero for f32 {}

/// So many zeros.
///
/// # Errors
/// The system has no memory.
pub fn zeros<E: Zero>(len: usize) -> Result<Vec<E>, KernelError> {
    let none = || KernelError::Memory { bytes: (len as u64).saturating_mul(size_of::<E>() as u64) };
    let layout = std::alloc::Layout::array::<E>(len).map_err(|_| none())?;
    if layout.size() == 0 {
        return Ok(vec![]);
    }
    // SAFETY: the size is not 0; if not null, the memory holds `len` values, as zeros are one, in a Vec's layout.
    unsafe {
        let data = std::alloc::alloc_zeroed(layout).cast::<E>();
        if data.is_null() { Err(none()) } else { Ok(Vec::from_raw_parts(data, len, len)) }
    }
}
