//! Socket activation: listening sockets that a supervisor opened and hands over from descriptor 3
//! on. The values of `LISTEN_PID` and `LISTEN_FDS` are passed in; nothing is read from the
//! environment here.

use std::io;
use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::{AddressFamily, sockopt};

/// The first descriptor that is handed over.
const FIRST: i32 = 3;

/// More than this nobody hands over on purpose.
const MAX: i32 = 64;

/// A listening socket that was handed over.
#[derive(Debug)]
pub enum Inherited {
    /// TCP, IPv4 or IPv6.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}

/// Takes over the sockets that are meant for process `me`: none where `listen_pid` names another,
/// or `listen_fds` is missing. Each is close-on-exec from then on; a second call is refused.
pub fn take_over(
    me: u32,
    listen_pid: Option<&str>,
    listen_fds: Option<&str>,
) -> io::Result<Vec<Inherited>> {
    let refuse = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
    let (Some(pid), Some(count)) = (listen_pid, listen_fds) else {
        return Ok(Vec::new());
    };
    let pid: u32 = pid
        .parse()
        .map_err(|_| refuse(format!("LISTEN_PID is {pid:?}, no number")))?;
    if pid != me {
        return Ok(Vec::new());
    }
    let count: i32 = count
        .parse()
        .ok()
        .filter(|count| (0..=MAX).contains(count))
        .ok_or_else(|| refuse(format!("LISTEN_FDS is {count:?}, not a number up to {MAX}")))?;
    (FIRST..FIRST + count).map(take_one).collect()
}

fn take_one(number: i32) -> io::Result<Inherited> {
    check(number)?;
    // JUSTIFICATION: an inherited descriptor is only known by its number.
    // SAFETY: `check` has seen that it is open and survived the exec that started us, which every
    // descriptor of our own would not have (all are close-on-exec), so nobody here owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    let listening = sockopt::socket_acceptconn(&socket)?;
    match sockopt::socket_domain(&socket)? {
        AddressFamily::INET | AddressFamily::INET6 if listening => {
            Ok(Inherited::Tcp(TcpListener::from(socket)))
        }
        AddressFamily::UNIX if listening => Ok(Inherited::Unix(UnixListener::from(socket))),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("descriptor {number} is not a listening TCP or unix socket"),
        )),
    }
}

fn check(number: i32) -> io::Result<()> {
    // JUSTIFICATION: as above.
    // SAFETY: the borrow ends in this function; a number that is not open gives EBADF.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    if fcntl_getfd(fd)?.contains(FdFlags::CLOEXEC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("descriptor {number} was not handed over: it is ours"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_for_others_or_without_sense_are_not_taken() {
        assert!(take_over(7, None, Some("1")).unwrap().is_empty());
        assert!(take_over(7, Some("8"), Some("1")).unwrap().is_empty());
        assert!(take_over(7, Some("7"), Some("0")).unwrap().is_empty());
        for (pid, fds) in [("x", "1"), ("7", "-1"), ("7", "65"), ("7", "")] {
            assert!(take_over(7, Some(pid), Some(fds)).is_err());
        }
    }
}
