//! RFC 3550 and friends: bytes in, views and bytes out. Pure, and nothing here allocates per packet.

pub mod codec;
pub mod demux;
pub mod dependency;
pub mod extension;
pub mod header;
pub mod layer;
pub mod srtp;

pub mod rtcp;
pub mod template;
