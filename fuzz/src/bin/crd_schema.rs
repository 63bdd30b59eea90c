#![no_main]

wharf_fuzz_programs::program!("crd_schema");
