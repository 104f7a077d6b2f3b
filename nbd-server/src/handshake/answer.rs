//! The second half of an option: what the exports said, put into replies.

use super::{
    Agreed, Ask, Close, ExportInfo, Handshake, Info, Listed, Refused, ReplyMode, State, Step,
    export_name_reply, info, list_entry, meta, meta_context_entry, opt, option_reply, rep,
};
use crate::export::BlockSize;
use crate::wire::{MAX_STRING, export_flags};

impl Handshake {
    /// Answers [`Step::Describe`].
    pub fn described(&mut self, found: Result<&ExportInfo, &Refused>) -> Step {
        match std::mem::replace(&mut self.state, State::Header) {
            State::Asking(Ask::Info {
                option,
                name,
                wanted,
            }) => match found {
                Ok(info) => {
                    self.tell(option, &name, &wanted, info);
                    Step::Next
                }
                Err(refused) => self.refuse_export(option, refused),
            },
            State::Asking(Ask::Meta {
                option,
                name,
                queries,
            }) => match found {
                Ok(info) => self.contexts(option, name, &queries, info),
                Err(refused) => self.refuse_export(option, refused),
            },
            other => self.unasked(other),
        }
    }

    /// Answers [`Step::Open`].
    pub fn opened(&mut self, found: Result<&ExportInfo, &Refused>) -> Step {
        match std::mem::replace(&mut self.state, State::Header) {
            State::Asking(Ask::Info {
                option,
                name,
                wanted,
            }) => match found {
                Ok(info) => {
                    self.tell(option, &name, &wanted, info);
                    self.transmit(&name, info)
                }
                Err(refused) => self.refuse_export(option, refused),
            },
            State::Asking(Ask::ExportName { name }) => match found {
                Ok(info) => {
                    let flags = transmission_flags(info, self.mode);
                    export_name_reply(&mut self.out, info.size, flags, self.no_zeroes);
                    self.transmit(&name, info)
                }
                Err(Refused::Unknown) => self.close(Close::ExportName("no export of this name")),
                Err(_) => self.close(Close::ExportName("the export is not given")),
            },
            other => self.unasked(other),
        }
    }

    /// Answers [`Step::List`]; `None` where listing is switched off.
    pub fn listed(&mut self, exports: Option<&[Listed]>) -> Step {
        match std::mem::replace(&mut self.state, State::Header) {
            State::Asking(Ask::List) => {}
            other => return self.unasked(other),
        }
        let Some(exports) = exports else {
            return self.refuse(opt::LIST, rep::ERR_POLICY, "listing is switched off here");
        };
        for export in exports {
            let description = clipped(&export.description);
            let entry = list_entry(clipped(&export.name), description);
            option_reply(&mut self.out, opt::LIST, rep::SERVER, &entry);
        }
        // A client may well ask for each one that it was shown, once.
        if !std::mem::replace(&mut self.listed, true) {
            self.options = self.options.saturating_add(exports.len().saturating_mul(8));
        }
        self.acknowledge(opt::LIST);
        Step::Next
    }

    fn unasked(&mut self, state: State) -> Step {
        self.state = state;
        Step::More
    }

    fn refuse_export(&mut self, option: u32, refused: &Refused) -> Step {
        match refused {
            Refused::Unknown => self.refuse(option, rep::ERR_UNKNOWN, "no export of this name"),
            Refused::Policy(why) => self.refuse(option, rep::ERR_POLICY, clipped(why)),
            Refused::Shutdown(why) => self.refuse(option, rep::ERR_SHUTDOWN, clipped(why)),
        }
    }

    fn tell(&mut self, option: u32, name: &str, wanted: &[u16], export: &ExportInfo) {
        let flags = transmission_flags(export, self.mode);
        let mut pieces = vec![Info::Export {
            size: export.size,
            flags,
        }];
        if wanted.contains(&info::NAME) {
            pieces.push(Info::Name(export.canonical_name.as_deref().unwrap_or(name)));
        }
        if let Some(description) = &export.description
            && wanted.contains(&info::DESCRIPTION)
        {
            pieces.push(Info::Description(clipped(description)));
        }
        if wanted.contains(&info::BLOCK_SIZE) {
            pieces.push(Info::BlockSize(sane_block_size(
                export.block_size,
                self.limits.payload,
            )));
        }
        for piece in pieces {
            option_reply(&mut self.out, option, rep::INFO, &piece.encode());
        }
        self.acknowledge(option);
    }

    fn contexts(
        &mut self,
        option: u32,
        name: String,
        queries: &[String],
        export: &ExportInfo,
    ) -> Step {
        let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
        let set = option == opt::SET_META_CONTEXT;
        let ids = if set {
            meta::select(&export.contexts, &queries)
        } else {
            meta::list(&export.contexts, &queries)
        };
        for (id, context) in meta::known(&export.contexts).filter(|(id, _)| ids.contains(id)) {
            // A list has no numbers: nothing is selected by it.
            let number = if set {
                u32::try_from(id).unwrap_or(u32::MAX)
            } else {
                0
            };
            let entry = meta_context_entry(number, context);
            option_reply(&mut self.out, option, rep::META_CONTEXT, &entry);
        }
        self.acknowledge(option);
        if set {
            self.selected = Some((name, export.contexts.clone(), ids));
        }
        Step::Next
    }

    fn transmit(&mut self, name: &str, export: &ExportInfo) -> Step {
        self.state = State::Over;
        let contexts = match self.selected.take() {
            // A selection counts only for the export that it was made for.
            Some((of, contexts, ids)) if of == name && contexts == export.contexts => ids,
            _ => Vec::new(),
        };
        Step::Transmit(Agreed {
            mode: self.mode,
            contexts,
        })
    }
}

/// At most as long as the protocol lets a string be.
fn clipped(text: &str) -> &str {
    let mut end = text.len().min(MAX_STRING);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// The transmission flags of an export.
pub fn transmission_flags(export: &ExportInfo, mode: ReplyMode) -> u16 {
    let writable = !export.read_only;
    let flags = [
        (true, export_flags::HAS_FLAGS),
        (export.read_only, export_flags::READ_ONLY),
        (
            export.can_flush,
            export_flags::SEND_FLUSH | export_flags::SEND_FUA,
        ),
        (export.rotational, export_flags::ROTATIONAL),
        (writable && export.can_trim, export_flags::SEND_TRIM),
        (writable && export.can_zero, export_flags::SEND_WRITE_ZEROES),
        (
            writable && export.can_zero && export.can_fast_zero,
            export_flags::SEND_FAST_ZERO,
        ),
        (export.multi_conn, export_flags::CAN_MULTI_CONN),
        (mode != ReplyMode::Simple, export_flags::SEND_DF),
    ];
    flags
        .into_iter()
        .filter(|(set, _)| *set)
        .fold(0, |all, (_, flag)| all | flag)
}

/// The sizes as the protocol allows them: the minimum a power of two up to 64 KiB, the preferred
/// at least that and 512, the maximum a multiple of the minimum and no more than is accepted.
pub fn sane_block_size(sizes: BlockSize, payload: u32) -> BlockSize {
    let floor = |value: u32| 1_u32 << value.max(1).ilog2();
    let minimum = floor(sizes.minimum.clamp(1, 1 << 16));
    let preferred = floor(sizes.preferred.clamp(512, 32 << 20)).max(minimum);
    let maximum = sizes.maximum.min(payload).max(preferred);
    BlockSize {
        minimum,
        preferred,
        maximum: maximum - maximum % minimum,
    }
}
