"""A directory tree with a little of everything, its changes, and all that can be told of it.

    tree.py fill DIR posix|plain     makes the tree
    tree.py change DIR N posix|plain changes it for the Nth time
    tree.py view DIR                 prints one JSON object per name, sorted by path
    tree.py ours FILE                the same shape, from the lines of our own listing
"""

import hashlib
import json
import os
import random
import stat
import struct
import sys
from urllib.parse import quote_from_bytes

PIECE = 4096
LONG = 64 << 20


def put(path, data, at=0):
    with open(path, "r+b" if os.path.exists(path) else "w+b") as out:
        out.seek(at)
        out.write(data)


def noise(seed, length):
    return random.Random(seed).randbytes(length)


def plain(root):
    many = os.path.join(root, b"many")
    os.makedirs(many)
    for n in range(1200):
        put(os.path.join(many, b"file-%05d" % n), noise(n, n % 40 * 50))
    deep = os.path.join(root, *(b"d%d" % n for n in range(30)))
    os.makedirs(deep)
    put(os.path.join(deep, b"bottom"), b"far down")
    names = os.path.join(root, b"names")
    os.makedirs(names)
    for name in ("grün-日本", "with space", "UPPER", "x" * 200, "a.b.c"):
        put(os.path.join(names, name.encode()), name.encode())
    put(os.path.join(root, b"large"), noise(1, 3 << 20))
    os.utime(os.path.join(root, b"large"), (1_000_000_000, 1_100_000_000))


def posix(root):
    plain(root)
    more = os.path.join(root, b"more")
    os.makedirs(more)
    for n in range(2500):
        put(os.path.join(more, b"%d" % n), noise(n, n % 7))
    names = os.path.join(root, b"names")
    for name in (b"line\nbreak", b"\xff\xfe not utf-8", b" ", b"...", "cafe\u0301".encode()):
        put(os.path.join(names, name), name)
    links = os.path.join(root, b"links")
    os.makedirs(links)
    os.link(os.path.join(root, b"large"), os.path.join(links, b"hard"))
    for length in (5, 59, 60, 400, 1000):
        os.symlink(b"t" * length, os.path.join(links, b"link-%d" % length))
    os.symlink(b"/etc/shadow", os.path.join(links, b"absolute"))
    os.symlink(b"../../../../etc/shadow", os.path.join(links, b"escaping"))
    special = os.path.join(root, b"special")
    os.makedirs(special)
    os.mkfifo(os.path.join(special, b"fifo"))
    os.mknod(os.path.join(special, b"null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(os.path.join(special, b"disk"), stat.S_IFBLK | 0o600, os.makedev(8, 17))
    huge = os.path.join(root, b"huge")
    put(huge, b"at the start")
    put(huge, noise(2, 9000), 5 << 30)
    holes = os.path.join(root, b"holes")
    for n in range(200):
        put(holes, noise(n, 700), n * 16384)
    ahead = os.path.join(root, b"ahead")
    with open(ahead, "wb") as out:
        os.posix_fallocate(out.fileno(), 0, 400_000)
    put(ahead, noise(3, 5000), 60_000)
    owners = os.path.join(root, b"owners")
    os.makedirs(owners)
    for n, mode in enumerate((0o4755, 0o2711, 0o600, 0o000)):
        path = os.path.join(owners, b"%d" % n)
        put(path, b"x")
        os.chown(path, 70_000 + n, 1_000_000)
        os.chmod(path, mode)
    for name, seconds in ((b"1950", -600_000_000), (b"2037", 2_120_000_000)):
        path = os.path.join(owners, name)
        put(path, name)
        os.utime(path, ns=(seconds * 10**9 + 123_456_700, seconds * 10**9 + 7))
    attributes = os.path.join(root, b"attributes")
    os.makedirs(attributes)
    for n in range(12):
        path = os.path.join(attributes, b"%d" % n)
        put(path, noise(n, n * 20))
        os.setxattr(path, "user.one", noise(9, n * 12))
        os.setxattr(path, "trusted.two", b"2")
    entries = ((1, 7, -1), (2, 5, 1234), (4, 4, -1), (16, 7, -1), (32, 1, -1))
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *e) for e in entries)
    os.setxattr(attributes, "system.posix_acl_access", acl)
    os.setxattr(attributes, "system.posix_acl_default", acl)


def change(root, n, kind):
    many = os.path.join(root, b"many")
    for m in range(n * 100, n * 100 + 60):
        os.unlink(os.path.join(many, b"file-%05d" % m))
    for m in range(n * 200, n * 200 + 50):
        put(os.path.join(many, b"new-%d" % m), noise(m, m % 9000))
    put(os.path.join(root, b"large"), noise(n + 50, 70_000), n * 500_000)
    os.rename(os.path.join(root, b"d0") if n == 1 else os.path.join(root, b"moved%d" % (n - 1)),
              os.path.join(root, b"moved%d" % n))
    with open(os.path.join(many, b"file-01000"), "r+b") as out:
        out.truncate(n)
    if kind == "plain":
        return
    put(os.path.join(root, b"huge"), noise(n, 5000), (n << 30) + 4321)
    put(os.path.join(root, b"holes"), noise(n, 100), n * 16384 + 9000)
    attributes = os.path.join(root, b"attributes")
    os.setxattr(os.path.join(attributes, b"%d" % n), "user.one", b"changed %d" % n)
    os.removexattr(os.path.join(attributes, b"%d" % (n + 5)), "trusted.two")
    os.chown(os.path.join(root, b"owners", b"2"), n, n)
    os.chmod(os.path.join(root, b"owners", b"3"), 0o700 + n)
    links = os.path.join(root, b"links")
    os.unlink(os.path.join(links, b"link-60" if n == 1 else b"again-%d" % (n - 1)))
    os.symlink(b"to %d" % n, os.path.join(links, b"again-%d" % n))
    if n == 2:
        os.unlink(os.path.join(links, b"hard"))


def digest(path, size):
    out = hashlib.sha256()
    with open(path, "rb") as file:
        if size <= LONG:
            out.update(file.read())
            return out.hexdigest()
        at = 0
        while True:
            try:
                data = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return out.hexdigest()
            end = os.lseek(file.fileno(), data, os.SEEK_HOLE)
            at = max(at, data // PIECE * PIECE)
            while at < end:
                piece = os.pread(file.fileno(), PIECE, at)
                if piece.strip(b"\0"):
                    out.update(struct.pack("<Q", at) + piece)
                at += PIECE


TYPES = {
    stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char_device", stat.S_IFBLK: "block_device", stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def one(path, name):
    facts = os.lstat(path)
    kind = TYPES[stat.S_IFMT(facts.st_mode)]
    link = os.readlink(path) if kind == "symlink" else None
    told = {
        "path": quote_from_bytes(b"/" + name, safe="-._~/"),
        "file_type": kind,
        "mode": facts.st_mode & 0o7777,
        "uid": facts.st_uid,
        "gid": facts.st_gid,
        "modified": facts.st_mtime_ns,
        "accessed": facts.st_atime_ns,
        "changed": facts.st_ctime_ns,
        "link": None if link is None else quote_from_bytes(link, safe="-._~/"),
        "xattrs": {n: os.getxattr(path, n, follow_symlinks=False).hex()
                   for n in os.listxattr(path, follow_symlinks=False)
                   # XFS shows how it keeps a list beside the list itself.
                   if not n.startswith("trusted.SGI_ACL_")},
    }
    if kind != "directory":
        told["links"] = facts.st_nlink
        told["size"] = facts.st_size
    if kind in ("char_device", "block_device"):
        told["device"] = [os.major(facts.st_rdev), os.minor(facts.st_rdev)]
    if kind == "file":
        told["content"] = digest(path, facts.st_size)
    return told


def view(root):
    names = []
    for base, dirs, files in os.walk(root):
        for name in dirs + files:
            path = os.path.join(base, name)
            names.append((path, os.path.relpath(path, root)))
    return [one(path, name) for path, name in names]


def ours(file):
    out = []
    for line in open(file, encoding="utf-8"):
        entry = json.loads(line)
        time = lambda t: None if t is None else t["seconds"] * 10**9 + t["nanos"]
        told = {
            "path": entry["path_encoded"],
            "file_type": entry["file_type"],
            "mode": entry["mode"],
            "uid": entry["uid"],
            "gid": entry["gid"],
            "modified": time(entry["modified"]),
            "accessed": time(entry["accessed"]),
            "changed": time(entry["changed"]),
            "link": entry.get("link_target_encoded"),
            "xattrs": {x["name"]: x["value_hex"] for x in entry["xattrs"]},
        }
        if entry["file_type"] != "directory":
            told["links"] = entry["links"]
            told["size"] = entry["size"]
        if entry["device"] is not None:
            told["device"] = entry["device"]
        out.append(told)
    return out


def main():
    what, where, rest = sys.argv[1], os.fsencode(sys.argv[2]), sys.argv[3:]
    if what == "fill":
        {"posix": posix, "plain": plain}[rest[0]](where)
    elif what == "change":
        change(where, int(rest[0]), rest[1])
    else:
        told = view(where) if what == "view" else ours(where)
        for line in sorted(told, key=lambda t: t["path"]):
            print(json.dumps(line, sort_keys=True))


main()
