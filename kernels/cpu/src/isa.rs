use std::fmt;

use crate::error::KernelError;
use crate::int8::Token8;
#[cfg(target_arch = "x86_64")]
use crate::int8::{Amx, Vnni256, Vnni512};
use crate::simd::{Kernel, scalar::Scalar};
#[cfg(target_arch = "x86_64")]
use crate::simd::{avx2::Avx2, avx512::Avx512};

/// An instruction set that this processor has; the proof is in having one.
#[derive(Clone, Copy)]
pub struct Isa(Token);

#[derive(Clone, Copy)]
enum Token {
    Scalar(Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(Vnni256),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Amx(Avx512, Vnni512),
}

impl Isa {
    /// Plain Rust, available everywhere.
    pub fn scalar() -> Isa {
        Isa(Token::Scalar(Scalar))
    }

    /// The best one here.
    pub fn detect() -> Isa {
        Isa::available().pop().unwrap_or_else(Isa::scalar)
    }

    /// Every one that this processor has, slowest first.
    pub fn available() -> Vec<Isa> {
        let mut found = vec![Isa::scalar()];
        #[cfg(target_arch = "x86_64")]
        {
            found.extend(Avx2::detect().map(|t| Isa(Token::Avx2(t))));
            found.extend(Vnni256::detect().map(|t| Isa(Token::AvxVnni(t))));
            let avx512 = Avx512::detect();
            found.extend(avx512.map(|t| Isa(Token::Avx512(t))));
            let amx = avx512.and_then(|t| Some((t, Vnni512::detect(t)?.with(Amx::detect()?))));
            found.extend(amx.map(|(t, with)| Isa(Token::Amx(t, with))));
        }
        found
    }

    /// By name: `auto`, `scalar`, `avx2`, `avxvnni`, `avx512` or `amx`, which is the one before with tiles.
    ///
    /// # Errors
    /// The name is none of these, or the processor lacks it.
    pub fn named(name: &str) -> Result<Isa, KernelError> {
        if name == "auto" {
            return Ok(Isa::detect());
        }
        let available = Isa::available();
        available.iter().find(|isa| isa.name() == name).copied().ok_or_else(|| {
            let names: Vec<_> = available.iter().map(|isa| isa.name()).collect();
            KernelError::Isa { asked: name.to_owned(), available: format!("auto, {}", names.join(", ")) }
        })
    }

    /// Its name, as [`named`](Isa::named) takes it.
    pub fn name(self) -> &'static str {
        match self.0 {
            Token::Scalar(_) => "scalar",
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Token::AvxVnni(_) => "avxvnni",
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Token::Amx(..) => "amx",
        }
    }

    /// Whether there are no instructions for vectors.
    pub(crate) fn is_scalar(self) -> bool {
        matches!(self.0, Token::Scalar(_))
    }

    /// Whether prompts are multiplied in tiles.
    pub(crate) fn has_tiles(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return matches!(self.0, Token::Amx(..));
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// Products of 8-bit integers, if it has them: in 512 bits only with VNNI, otherwise in 256.
    pub(crate) fn int8(self) -> Option<Token8> {
        match self.0 {
            Token::Scalar(_) => None,
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(token) => Some(Token8::Avx2(token)),
            #[cfg(target_arch = "x86_64")]
            Token::AvxVnni(token) => Some(Token8::Vnni256(token)),
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(token) => Vnni512::detect(token)
                .map(Token8::Vnni512)
                .or_else(|| Vnni256::detect().map(Token8::Vnni256))
                .or_else(|| Avx2::detect().map(Token8::Avx2)),
            #[cfg(target_arch = "x86_64")]
            Token::Amx(_, token) => Some(Token8::Vnni512(token)),
        }
    }

    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Out {
        match self.0 {
            Token::Scalar(token) => token.enter(kernel),
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(token) => token.enter(kernel),
            #[cfg(target_arch = "x86_64")]
            Token::AvxVnni(token) => token.avx2().enter(kernel),
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(token) | Token::Amx(token, _) => token.enter(kernel),
        }
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
