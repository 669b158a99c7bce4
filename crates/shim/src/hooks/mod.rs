//! The functions of libc that this library stands before.
//!
//! Each looks its descriptor or its path up, and passes the call on. The `64` names are the same functions on
//! 64-bit systems, and the `_chk` and `_2` ones what fortified programs call.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("the functions with and without 64 in their names must be the same");

/// Defines functions that take the place of libc's. A test build does not export them: its test runner is not
/// PostgreSQL.
macro_rules! intercept {
    ($(fn $name:ident($($arg:ident: $type:ty),* $(,)?) -> $result:ty $body:block)*) => {$(
        #[doc = concat!("Stands before libc's `", stringify!($name), "`.")]
        ///
        /// # Safety
        /// As for the C function.
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C" fn $name($($arg: $type),*) -> $result $body
    )*};
}

pub mod data;
pub mod descriptors;
pub mod open;
pub mod paths;
pub mod streams;
pub mod sync;
