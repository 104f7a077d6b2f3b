//! `compare`: whether two images hold the same disk.

use sendense_engine::transfer::{self, ChainReader, Progress};
use serde::Serialize;

use crate::cli::{CompareArgs, Output};
use crate::open;
use crate::output::{Failure, bytes, json, line};

#[derive(Debug, Serialize)]
struct Report {
    identical: bool,
    first_difference: Option<u64>,
    first_size: u64,
    second_size: u64,
}

pub(crate) fn run(output: Output, args: &CompareArgs) -> Result<u8, Failure> {
    let first = open::chain_of(&args.first, args.first_format, &args.chain)?;
    let second = open::chain_of(&args.second, args.second_format, &args.chain)?;
    let found = open::block_on(|io| async move {
        let (first, second) = (ChainReader::new(first), ChainReader::new(second));
        Ok(transfer::compare(&io, &first, &second, &Progress::new()).await?)
    })?;
    let same = if args.strict {
        found.identical()
    } else {
        found.same_content()
    };
    if output == Output::Json {
        json(&Report {
            identical: same,
            first_difference: found.first_difference,
            first_size: found.sizes.0,
            second_size: found.sizes.1,
        })?;
    } else {
        if found.sizes.0 != found.sizes.1 {
            let (a, b) = (bytes(found.sizes.0), bytes(found.sizes.1));
            line(&format!("The sizes differ: {a} and {b}."))?;
        }
        match found.first_difference {
            Some(at) => line(&format!("The disks differ at byte {at}."))?,
            None if same => line("The disks are identical.")?,
            None => line("The disks hold the same up to the end of the shorter one.")?,
        }
    }
    Ok(u8::from(!same))
}
