#![no_main]

wharf_fuzz_programs::program!("cel");
