//! What every program of the fuzzer is: a target, and changes that keep JSON well-formed beside libFuzzer's own.

/// Makes the program of a target.
#[macro_export]
macro_rules! program {
    ($name:literal) => {
        $crate::sys::fuzz_target!(|input: &[u8]| {
            if let Some(target) = $crate::target($name) {
                (target.run)(input);
            }
        });
        $crate::sys::fuzz_mutator!(|data: &mut [u8], size: usize, most: usize, seed: u32| { $crate::mutate(data, size, most, seed) });
    };
}

pub use libfuzzer_sys as sys;
use rand::SeedableRng;
use rand::rngs::StdRng;
pub use wharf_fuzz::target;

/// libFuzzer's change, or one in the structure; answers the new length.
pub fn mutate(data: &mut [u8], size: usize, most: usize, seed: u32) -> usize {
    if seed % 2 == 0 {
        let mut input = data[..size].to_vec();
        if wharf_fuzz::restructure(&mut StdRng::seed_from_u64(seed.into()), &mut input) && input.len() <= most {
            data[..input.len()].copy_from_slice(&input);
            return input.len();
        }
    }
    sys::fuzzer_mutate(data, size, most)
}
