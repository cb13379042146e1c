//! How the names of hosts are looked up.

/// Has a static program look up names by what is built into it: `/etc/hosts` and DNS. Otherwise glibc
/// would load the modules that `/etc/nsswitch.conf` names, such as `resolve`, which belong to another
/// glibc and crash the process. To be called before any name is looked up.
/// <https://sourceware.org/glibc/wiki/FAQ#Even_statically_linked_programs_need_some_shared_libraries_which_is_not_acceptable_for_me.__What_can_I_do.3F>
pub fn built_in() {
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    {
        unsafe extern "C" {
            /// As `<nss.h>` has it.
            fn __nss_configure_lookup(
                database: *const core::ffi::c_char,
                services: *const core::ffi::c_char,
            ) -> core::ffi::c_int;
        }
        // SAFETY: both are strings that stay; it keeps neither, and no other thread runs yet.
        unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
    }
}
