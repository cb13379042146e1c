#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sched_exporter_tests::properties::runtimes(bytes));
