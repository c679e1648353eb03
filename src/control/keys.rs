//! DTLS for str0m with the SRTP keys noted as they pass, and a configuration that is built once.
//!
//! str0m's own provider validates the whole crypto backend again for every session, 0.65 ms each time; here
//! one `dimpl::Config` and one certificate serve the process. The keys go to the shard that seals the
//! session's media: str0m has them too, but is given no media and so has nothing to seal.
//!
//! Which session a handshake belongs to is settled by [`KeySlot::claim_next`]: `new_dtls` runs
//! synchronously inside `RtcConfig::build`, so the slot set just before belongs to the one being built.

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use str0m::config::DtlsVersion;
use str0m::config::{CryptoProvider, DtlsCert};
use str0m::crypto::CryptoError;
use str0m::crypto::dtls::{
    DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, ProtocolVersion, SrtpProfile,
};

use crate::rtp::srtp::{DtlsRole, KeyingMaterial, Opener, Profile, Sealer};

/// Where the keys of one DTLS association appear.
#[derive(Clone, Default)]
pub struct KeySlot(Arc<Mutex<Option<(KeyingMaterial, DtlsRole)>>>);

thread_local! {
    static NEXT_SLOT: RefCell<Option<KeySlot>> = const { RefCell::new(None) };
}

impl KeySlot {
    /// Makes this the slot of the next DTLS instance created on this thread.
    pub fn claim_next(&self) {
        NEXT_SLOT.with(|next| *next.borrow_mut() = Some(self.clone()));
    }

    /// The contexts for both directions, once, after the handshake.
    pub fn take(&self) -> Option<(Sealer, Opener)> {
        let (material, role) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(material.into_contexts(role))
    }

    fn put(&self, material: &[u8], profile: SrtpProfile, role: DtlsRole) {
        let profile = match profile {
            SrtpProfile::AEAD_AES_128_GCM => Profile::AeadAes128Gcm,
            SrtpProfile::AEAD_AES_256_GCM => Profile::AeadAes256Gcm,
            _ => Profile::Aes128CmHmacSha1_80,
        };
        match KeyingMaterial::from_dtls(profile, material) {
            Ok(material) => {
                *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((material, role));
            }
            Err(error) => tracing::error!(%error, "DTLS exported keys of an unexpected length"),
        }
    }
}

/// str0m's crypto with our DTLS.
pub fn crypto_provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let build = || Arc::new(CryptoProvider { dtls_provider: &Tap, ..str0m::crypto::from_feature_flags() });
    PROVIDER.get_or_init(build).clone()
}

/// A certificate for the life of the process.
pub fn certificate() -> Option<DtlsCert> {
    Tap.generate_certificate()
}

#[derive(Debug)]
struct Tap;

impl DtlsProvider for Tap {
    fn generate_certificate(&self) -> Option<DtlsCert> {
        dimpl::certificate::generate_self_signed_certificate().ok()
    }

    /// DTLS 1.2 whatever is asked for: its server chooses the SRTP profile and so can prefer GCM, which a
    /// 1.3 server of this library does not, and every browser falls back to it.
    fn new_dtls(
        &self,
        cert: &DtlsCert,
        now: Instant,
        _version: DtlsVersion,
        _mtu: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        let dtls = dimpl::Dtls::new_12(shared_config()?, cert.clone(), now);
        let slot = NEXT_SLOT.with(|next| next.borrow_mut().take()).unwrap_or_default();
        Ok(Box::new(TappedDtls { dtls, slot }))
    }
}

fn shared_config() -> Result<Arc<dimpl::Config>, CryptoError> {
    static CONFIG: OnceLock<Arc<dimpl::Config>> = OnceLock::new();
    if let Some(config) = CONFIG.get() {
        return Ok(config.clone());
    }
    // ICE has verified the peer's address before DTLS begins, so the cookie would prove nothing more.
    let config = dimpl::Config::builder().use_server_cookie(false).build();
    let config = config.map_err(|error| CryptoError::Other(format!("DTLS configuration: {error}")))?;
    Ok(CONFIG.get_or_init(|| Arc::new(config)).clone())
}

struct TappedDtls {
    dtls: dimpl::Dtls,
    slot: KeySlot,
}

impl fmt::Debug for TappedDtls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TappedDtls")
    }
}

impl DtlsInstance for TappedDtls {
    fn poll_output<'a>(&mut self, buf: &'a mut [u8]) -> DtlsOutput<'a> {
        let output = self.dtls.poll_output(buf);
        if let DtlsOutput::KeyingMaterial(material, profile) = &output {
            let role = if self.dtls.is_active() { DtlsRole::Client } else { DtlsRole::Server };
            self.slot.put(material, *profile, role);
        }
        output
    }

    fn set_active(&mut self, active: bool) {
        self.dtls.set_active(active);
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.dtls.handle_packet(packet)
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.dtls.handle_timeout(now)
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        self.dtls.send_application_data(data)
    }

    fn is_active(&self) -> bool {
        self.dtls.is_active()
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.dtls.protocol_version()
    }

    fn is_closing(&self) -> bool {
        self.dtls.is_closing()
    }

    fn is_closed(&self) -> bool {
        self.dtls.is_closed()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        self.dtls.close()
    }
}
