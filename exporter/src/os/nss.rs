//! Configures how glibc resolves host names.

/// Makes a static binary resolve host names with its built-in resolvers, `/etc/hosts` and DNS. Otherwise
/// glibc would load the modules named in `/etc/nsswitch.conf`, such as `resolve`, which belong to another
/// glibc and crash the process. Call it before any name is resolved.
/// <https://sourceware.org/glibc/wiki/FAQ#Even_statically_linked_programs_need_some_shared_libraries_which_is_not_acceptable_for_me.__What_can_I_do.3F>
pub fn use_built_in_resolvers() {
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    {
        unsafe extern "C" {
            /// Declared in `<nss.h>`.
            fn __nss_configure_lookup(
                database: *const core::ffi::c_char,
                services: *const core::ffi::c_char,
            ) -> core::ffi::c_int;
        }
        // SAFETY: both strings are static, and no other thread runs yet.
        unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
    }
}
