//! Socket activation: listening sockets that a supervisor opened and hands over from descriptor 3
//! on. Which they are, [`sendense_nbd::activation`] reads from the supervisor's variables.

use std::io;
use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::{AddressFamily, sockopt};
use sendense_nbd::activation::Activated;

/// A listening socket that was handed over.
#[derive(Debug)]
pub enum Inherited {
    /// TCP, IPv4 or IPv6.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}

/// Takes over the sockets that the variables name
/// ([`sendense_nbd::activation::handed_over`]). Each is close-on-exec from then on; a second call is
/// refused.
pub fn take_over(sockets: &[Activated]) -> io::Result<Vec<(String, Inherited)>> {
    sockets
        .iter()
        .map(|socket| {
            let taken = take_one(socket.fd).map_err(|e| explained(socket.fd, sockets.len(), e))?;
            Ok((socket.name.clone(), taken))
        })
        .collect()
}

/// What an operator can do about it: the variables say one thing, the process was given another.
fn explained(number: i32, count: usize, e: io::Error) -> io::Error {
    let why = if e.raw_os_error() == Some(rustix::io::Errno::BADF.raw_os_error()) {
        format!("descriptor {number} is not open")
    } else {
        e.to_string()
    };
    io::Error::new(
        e.kind(),
        format!(
            "LISTEN_FDS={count} says that a supervisor handed over sockets from descriptor 3 on, \
             but {why}: let a systemd socket unit start the daemon, or unset LISTEN_PID and \
             LISTEN_FDS to have it open its own sockets"
        ),
    )
}

fn take_one(number: i32) -> io::Result<Inherited> {
    if number < 3 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
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
    use std::os::fd::{AsRawFd, IntoRawFd};

    use super::*;

    #[test]
    fn what_is_not_open_or_our_own_is_not_taken() {
        let activated = |fd| {
            [Activated {
                fd,
                name: "nbd".to_owned(),
            }]
        };
        assert!(take_over(&[]).unwrap().is_empty());
        let none = take_over(&activated(900)).unwrap_err().to_string();
        for word in ["LISTEN_FDS=1", "descriptor 900 is not open", "unset"] {
            assert!(none.contains(word), "{none}");
        }
        assert!(take_over(&activated(-7)).is_err());
        let ours = TcpListener::bind("127.0.0.1:0").unwrap();
        let refused = take_over(&activated(ours.as_raw_fd())).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_listening_socket_is_taken_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // As it would be behind an exec: open, and not close-on-exec.
        let handed = rustix::io::dup(&listener).unwrap();
        let number = handed.into_raw_fd();
        let activated = [Activated {
            fd: number,
            name: "nbd".to_owned(),
        }];
        let taken = take_over(&activated).unwrap();
        assert!(matches!(&taken[..], [(name, Inherited::Tcp(_))] if name == "nbd"));
        assert!(take_over(&activated).is_err());
        let (file, _) = (std::fs::File::open("/dev/null").unwrap(), taken);
        let number = rustix::io::dup(&file).unwrap().into_raw_fd();
        assert!(
            take_over(&[Activated {
                fd: number,
                name: String::new()
            }])
            .is_err()
        );
    }
}
