//! What is told of a range: hole, data, zeroes.

use super::CLUSTER;
use super::rig::{Rig, block_on, pattern};

#[test]
fn status_tells_holes_data_and_what_is_held() {
    block_on(async {
        let base = Rig::full(2 * CLUSTER);
        base.seal().await.unwrap();
        let rig = Rig::over(&base, 6 * CLUSTER);
        let disk = rig.attach();
        disk.zero(0, CLUSTER).await.unwrap();
        disk.write(3 * CLUSTER, pattern(1, 65536)).await.unwrap();
        disk.write(5 * CLUSTER + 7, vec![1]).await.unwrap();
        let all = disk.status(0, 6 * CLUSTER).unwrap();
        let one = |len: u64, flags| (len * CLUSTER, flags);
        let expected = [
            one(1, 3),
            one(1, 0),
            one(1, 3),
            one(1, 0),
            one(1, 3),
            one(1, 0),
        ];
        assert_eq!(all, expected);
        assert_eq!(
            disk.status(100, CLUSTER).unwrap(),
            [(CLUSTER - 100, 3), (100, 0)]
        );
    });
}

#[test]
fn status_of_a_huge_disk_looks_at_a_bounded_part() {
    block_on(async {
        let size = 8 << 40;
        let rig = Rig::full(size);
        let disk = rig.attach();
        assert_eq!(disk.status(0, size).unwrap(), [(64 << 30, 3)]);
        assert_eq!(
            disk.status(size - (1 << 30), 1 << 30).unwrap(),
            [(1 << 30, 3)]
        );
    });
}
