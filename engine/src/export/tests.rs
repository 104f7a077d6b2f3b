//! The exports through the interface that the session uses.

use sendense_nbd::{ExportInfo, NbdError, ZeroFlags};

use super::*;
use crate::chain::tests::file;
use crate::chain::{Chain, ChainOptions, LayerSource};
use crate::io::{Io, IoConfig};
use crate::plane::Source;
use crate::pool::IoBuf;

fn on_a_thread<F: Future>(work: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

#[test]
fn a_file_is_written_zeroed_trimmed_and_read() {
    on_a_thread(async {
        let io = Io::new(IoConfig::small()).unwrap();
        let file = file(&[7; 10_000]);
        let source = FileSource::new(
            file.clone(),
            FileExportOptions {
                info: ExportInfo::writable(9_000),
                sync: true,
            },
        );
        let export = source.attach(&io);
        export
            .write(10, IoBuf::copy_of(b"hello"))
            .await
            .result
            .unwrap();
        export
            .write_zeroes(100, 50, ZeroFlags::default())
            .await
            .unwrap();
        let no_hole = ZeroFlags {
            no_hole: true,
            fast: false,
        };
        export.write_zeroes(200, 50, no_hole).await.unwrap();
        let both = ZeroFlags {
            no_hole: true,
            fast: true,
        };
        assert_eq!(
            export.write_zeroes(0, 9, both).await,
            Err(NbdError::NotSupported)
        );
        export.trim(300, 50).await.unwrap();
        export.flush().await.unwrap();
        let done = export.read(0, IoBuf::heap(400)).await;
        done.result.unwrap();
        let bytes = done.buf.as_ref();
        assert_eq!(&bytes[9..16], b"\x07hello\x07");
        for zero in [100..150, 200..250, 300..350] {
            assert!(bytes[zero].iter().all(|b| *b == 0));
        }
        assert_eq!(bytes.iter().filter(|b| **b == 0).count(), 150);
        let extents = export.block_status(0, 100, 8_900, 5).await.unwrap();
        assert_eq!(
            (extents.len(), extents[0].len, extents[0].flags),
            (1, 8_900, 0)
        );
    });
}

#[test]
fn a_restore_point_is_read_only_and_tells_its_holes_and_changes() {
    on_a_thread(async {
        let io = Io::new(IoConfig::small()).unwrap();
        let raw = file(&[5; 70_000]);
        let layer = LayerSource::raw(raw, "disk");
        let chain = Chain::open([layer], ChainOptions::default()).unwrap();
        let export = RestoreSource::new(chain).attach(&io);
        assert!(export.info().read_only && export.info().multi_conn);
        assert_eq!(export.info().contexts, [CHANGED_CONTEXT]);
        let write = export.write(0, IoBuf::copy_of(b"x")).await;
        assert_eq!(write.result, Err(NbdError::NotPermitted));
        let done = export.read(69_999, IoBuf::heap(1)).await;
        done.result.unwrap();
        assert_eq!(done.buf.as_ref(), [5]);
        for (context, flags) in [(0, 0), (1, 1)] {
            let extents = export
                .block_status(context, 1_000, 69_000, 10)
                .await
                .unwrap();
            assert_eq!(
                (extents.len(), extents[0].len, extents[0].flags),
                (1, 69_000, flags)
            );
        }
    });
}
