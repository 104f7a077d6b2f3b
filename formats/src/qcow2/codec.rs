//! Compressed clusters: raw deflate or zstd in, exactly one cluster out.
//!
//! The packed bytes are followed by whatever shares their last sector, so trailing bytes are
//! normal; output that ends early is damage. Zstd says where a frame ends, and one that goes on
//! behind the cluster is damage too; deflate is done with the cluster full, as in QEMU: an end
//! mark may be missing, and what follows may then look like more of it.

use flate2::{Decompress, FlushDecompress};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use super::Compression;
use crate::{Error, ErrorKind, Result};

/// Windows above 16 MiB are refused: a cluster has 2 MiB at most.
const ZSTD_WINDOW_LOG: u32 = 24;

/// Unpacks `src` into `dst`, which is exactly one cluster. `src` may go on behind the packed
/// bytes.
pub fn decompress(compression: Compression, src: &[u8], dst: &mut [u8]) -> Result<()> {
    match compression {
        Compression::Zlib => inflate(src, dst),
        Compression::Zstd => unzstd(src, dst),
    }
}

fn inflate(src: &[u8], dst: &mut [u8]) -> Result<()> {
    let mut stream = Decompress::new(false);
    let status = stream.decompress(src, dst, FlushDecompress::Finish);
    let full = stream.total_out() == dst.len() as u64;
    match (status, full) {
        (Ok(_), true) => Ok(()),
        (Ok(_), false) => Err(damaged("ends before its cluster does")),
        (Err(_), _) => Err(damaged("is not valid deflate data")),
    }
}

fn unzstd(src: &[u8], dst: &mut [u8]) -> Result<()> {
    let broken = |_| damaged("is not valid zstd data");
    let mut decoder = Decoder::new().map_err(broken)?;
    decoder
        .set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG))
        .map_err(broken)?;
    let size = dst.len();
    let mut input = InBuffer::around(src);
    let mut output = OutBuffer::around(dst);
    loop {
        let before = (input.pos(), output.pos());
        let left = decoder.run(&mut input, &mut output).map_err(broken)?;
        match (output.pos() == size, left) {
            (true, 0) => return Ok(()),
            // Several frames may make up one cluster.
            (false, _) if (input.pos(), output.pos()) != before => {}
            (false, _) => return Err(damaged("ends before its cluster does")),
            (true, _) if (input.pos(), output.pos()) != before => {}
            (true, _) => return Err(damaged("unpacks to more than one cluster")),
        }
    }
}

fn damaged(what: &str) -> Error {
    Error::new(
        ErrorKind::BadCompression,
        format!("a compressed cluster {what}"),
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression as Level, write::DeflateEncoder};
    use proptest::prelude::*;

    use super::*;

    fn deflate(data: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Level::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn cluster() -> Vec<u8> {
        (0..65536_u32).map(|i| (i / 7 % 251) as u8).collect()
    }

    fn both() -> [(Compression, Vec<u8>); 2] {
        let zstd = zstd::bulk::compress(&cluster(), 3).unwrap();
        [
            (Compression::Zlib, deflate(&cluster())),
            (Compression::Zstd, zstd),
        ]
    }

    #[test]
    fn one_cluster_comes_out_whatever_follows() {
        for (method, mut packed) in both() {
            packed.extend_from_slice(&[0xa5; 700]);
            let mut out = vec![0; 65536];
            decompress(method, &packed, &mut out).unwrap();
            assert!(out == cluster());
        }
    }

    #[test]
    fn too_little_or_too_much_is_damage() {
        for (method, packed) in both() {
            // A full cluster of deflate data is one, whatever the stream had to say further.
            let mut short = vec![0; 65536 - 512];
            let more = decompress(method, &packed, &mut short);
            assert_eq!(more.is_ok(), method == Compression::Zlib);
            assert!(more.is_err() || short == cluster()[..65536 - 512]);
            for (size, src) in [
                (65536 + 512, &packed[..]),
                (65536, &packed[..packed.len() / 2]),
                (65536, &[]),
                (512, &[0xff; 64]),
            ] {
                let error = decompress(method, src, &mut vec![0; size]).unwrap_err();
                assert_eq!(error.kind, ErrorKind::BadCompression, "{method:?} {size}");
            }
        }
    }

    #[test]
    fn a_full_cluster_of_deflate_data_needs_no_end_mark() {
        let whole = cluster();
        // Without the last block: all is out, nothing says that it is.
        let mut encoder = DeflateEncoder::new(Vec::new(), Level::default());
        encoder.write_all(&whole).unwrap();
        encoder.flush().unwrap();
        let flushed = encoder.get_ref().clone();
        // Cut in the end mark itself, and with the packed bytes of a neighbour behind it.
        let ended = deflate(&whole);
        let cut = ended[..ended.len() - 1].to_vec();
        let shared = [&flushed[..], &deflate(&whole)].concat();
        for packed in [flushed, cut, shared] {
            let mut out = vec![0; 65536];
            decompress(Compression::Zlib, &packed, &mut out).unwrap();
            assert!(out == whole);
        }
    }

    #[test]
    fn several_zstd_frames_make_one_cluster() {
        let whole = cluster();
        let (a, b) = whole.split_at(1000);
        let mut packed = zstd::bulk::compress(a, 1).unwrap();
        packed.extend(zstd::bulk::compress(b, 1).unwrap());
        let mut out = vec![0; 65536];
        decompress(Compression::Zstd, &packed, &mut out).unwrap();
        assert!(out == whole);
    }

    #[test]
    fn a_huge_window_is_refused() {
        // Magic, descriptor without content size, window of 2^27 bytes, an empty last block.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (27 - 10) << 3, 1, 0, 0];
        let error = decompress(Compression::Zstd, &frame, &mut [0; 512]).unwrap_err();
        assert!(error.detail.contains("not valid"));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(src in proptest::collection::vec(any::<u8>(), 0..300)) {
            for method in [Compression::Zlib, Compression::Zstd] {
                let _ = decompress(method, &src, &mut [0; 512]);
            }
        }
    }
}
