//! From kernel sources to images: finds the compilers, knows the flags of each target, and keeps what it made.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The GPU targets for which code objects are made ahead of time.
pub const GFX: &[&str] =
    &["gfx1030", "gfx1100", "gfx1101", "gfx1102", "gfx1151", "gfx1200", "gfx1201", "gfx90a", "gfx942", "gfx950"];

/// The oldest clang whose amdgcn builtins the kernels use.
const OLDEST_CLANG: u32 = 19;

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// No compiler for the target.
    #[error("no {what} found; tried:\n  {}", tried.join("\n  "))]
    NoCompiler {
        /// What was looked for.
        what: &'static str,
        /// Each candidate and why it will not do.
        tried: Vec<String>,
    },
    /// A target that nothing here can compile.
    #[error("unknown target '{0}': expected gfx..., simt32, simt64 or sm_...")]
    UnknownArch(String),
    /// The compiler refused a source.
    #[error("{source_name} for {arch}: {message}")]
    Failed {
        /// The source's name.
        source_name: String,
        /// The target.
        arch: String,
        /// What the compiler printed.
        message: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> CompileError + '_ {
    |error| CompileError::Io { path: path.display().to_string(), error }
}

/// What a compiler makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Raw code objects for amdgcn.
    Amdgcn,
    /// Shared libraries for the host, one lane at a time.
    Simt,
    /// CUDA binaries.
    Cuda,
}

impl Kind {
    /// The kind of image that a target takes.
    pub fn of(arch: &str) -> Result<Kind, CompileError> {
        match arch {
            "simt32" | "simt64" => Ok(Kind::Simt),
            _ if arch.starts_with("gfx") => Ok(Kind::Amdgcn),
            _ if arch.starts_with("sm_") => Ok(Kind::Cuda),
            _ => Err(CompileError::UnknownArch(arch.to_owned())),
        }
    }

    /// The ending of an image's file name.
    pub fn extension(self) -> &'static str {
        match self {
            Kind::Amdgcn => "co",
            Kind::Simt => "so",
            Kind::Cuda => "cubin",
        }
    }
}

/// A compiler that was found.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// What it makes.
    pub kind: Kind,
    /// The program.
    pub program: PathBuf,
    /// The first line of its `--version`.
    pub version: String,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.program.display(), self.version)
    }
}

fn version(program: &Path) -> Result<String, String> {
    let output = Command::new(program).arg("--version").output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(text.trim().to_owned()),
        false => Err(format!("--version ended with {}", output.status)),
    }
}

fn major(version: &str) -> Option<u32> {
    let number = version.split("clang version ").nth(1)?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

impl Toolchain {
    /// The compiler for a kind of image.
    pub fn find(kind: Kind) -> Result<Toolchain, CompileError> {
        match kind {
            Kind::Amdgcn => Toolchain::clang(),
            Kind::Simt => Toolchain::first(kind, "C++ compiler", &["CXX"], &["c++", "g++", "clang++"]),
            Kind::Cuda => Toolchain::first(kind, "nvcc", &["NVCC"], &["nvcc", "/usr/local/cuda/bin/nvcc"]),
        }
    }

    /// A clang that can compile for amdgcn: `ROCMFORGE_HIP_CLANG`, ROCm's own, or the newest of the system.
    pub fn clang() -> Result<Toolchain, CompileError> {
        let named = std::env::var_os("ROCMFORGE_HIP_CLANG").map(PathBuf::from);
        let roots = ["ROCM_PATH", "HIP_PATH"].iter().filter_map(std::env::var_os).map(PathBuf::from);
        let rocm = roots.chain([PathBuf::from("/opt/rocm")]).map(|root| root.join("llvm/bin/clang"));
        let numbered = (OLDEST_CLANG..=29).rev().map(|n| PathBuf::from(format!("clang-{n}")));
        let candidates: Vec<PathBuf> = match named {
            Some(program) => vec![program],
            None => rocm.chain(numbered).chain([PathBuf::from("clang")]).collect(),
        };
        let mut tried = vec![];
        for program in candidates {
            match version(&program) {
                Err(why) => tried.push(format!("{}: {why}", program.display())),
                Ok(text) => match major(&text) {
                    Some(n) if n >= OLDEST_CLANG => {
                        let version = text.lines().next().unwrap_or_default().to_owned();
                        return Ok(Toolchain { kind: Kind::Amdgcn, program, version });
                    }
                    _ => tried.push(format!("{}: expected clang {OLDEST_CLANG} or later", program.display())),
                },
            }
        }
        Err(CompileError::NoCompiler { what: "clang for amdgcn", tried })
    }

    fn first(kind: Kind, what: &'static str, variables: &[&str], names: &[&str]) -> Result<Toolchain, CompileError> {
        let named = variables.iter().filter_map(std::env::var_os).map(PathBuf::from);
        let mut tried = vec![];
        for program in named.chain(names.iter().map(PathBuf::from)) {
            match version(&program) {
                Ok(text) => {
                    // nvcc's first line is its name; its release is further down.
                    let line = text.lines().find(|l| l.contains("release")).or(text.lines().next());
                    return Ok(Toolchain { kind, program, version: line.unwrap_or_default().to_owned() });
                }
                Err(why) => tried.push(format!("{}: {why}", program.display())),
            }
        }
        Err(CompileError::NoCompiler { what, tried })
    }

    /// The arguments for one target, without input and output.
    pub fn arguments(&self, arch: &str) -> Vec<String> {
        let own = match self.kind {
            // Unrolling is asked for and not always done; the gates judge what came of it.
            Kind::Amdgcn => format!(
                "-x hip --cuda-device-only --offload-arch={arch} -nogpuinc -nogpulib --no-gpu-bundle-output \
                 -mcode-object-version=5 -fuse-cuid=none -O3 -ffp-contract=off -Wall -Wextra -Werror -Wno-unused-function \
                 -Wno-pass-failed"
            ),
            Kind::Simt => {
                let wave = arch.trim_start_matches("simt");
                format!(
                    "-x c++ -shared -fPIC -fvisibility=hidden -DRF_TARGET_SIMT -DRF_WAVE={wave} -O2 -ffp-contract=off"
                )
            }
            Kind::Cuda => format!("-x cu -arch={arch} -cubin -O3 -fmad=false"),
        };
        own.split_whitespace().map(str::to_owned).chain(["-std=c++17".to_owned()]).collect()
    }

    /// Whether the compiler knows the target, by compiling an empty kernel for it.
    pub fn supports(&self, arch: &str, cache: &Cache) -> bool {
        let (source, output) = (cache.folder.join("probe.hip"), cache.folder.join(format!("probe-{arch}")));
        let text = "extern \"C\" __attribute__((global)) void probe(void) {}\n";
        let written = std::fs::create_dir_all(&cache.folder).and_then(|()| std::fs::write(&source, text));
        written.is_ok() && self.run(arch, &[], &source, &output).is_ok()
    }

    fn run(&self, arch: &str, more: &[String], source: &Path, output: &Path) -> Result<String, String> {
        let result = Command::new(&self.program)
            .args(self.arguments(arch))
            .args(more)
            .arg(source)
            .arg("-o")
            .arg(output)
            .output()
            .map_err(|e| format!("{}: {e}", self.program.display()))?;
        let text = String::from_utf8_lossy(&result.stderr).into_owned();
        if result.status.success() { Ok(text) } else { Err(format!("{self} said:\n{text}")) }
    }
}

/// Where images are kept, and the sources they are made from.
#[derive(Clone, Debug)]
pub struct Cache {
    /// The folder of images.
    pub folder: PathBuf,
    /// The folder that holds `kernels` and `include`.
    pub sources: PathBuf,
}

/// One image to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The source's name without its ending.
    pub source: String,
    /// The target.
    pub arch: String,
}

/// FNV-1a, 64 bits: names a cached image by what it was made from.
fn hash(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.iter().chain([&0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

impl Cache {
    /// All sources for all of these targets.
    pub fn jobs(&self, archs: &[String]) -> Result<Vec<Job>, CompileError> {
        let names = self.source_names()?;
        let job = |arch: &String, source: &String| Job { source: source.clone(), arch: arch.clone() };
        Ok(archs.iter().flat_map(|arch| names.iter().map(move |source| job(arch, source))).collect())
    }

    /// The names of the sources, sorted.
    pub fn source_names(&self) -> Result<Vec<String>, CompileError> {
        let files = list(&self.sources.join("kernels"))?;
        let stem = |path: &PathBuf| path.file_stem().map(|s| s.to_string_lossy().into_owned());
        Ok(files.iter().filter(|f| f.extension().is_some_and(|e| e == "hip")).filter_map(stem).collect())
    }

    /// What all sources and headers are together: another text for any change of one.
    pub fn fingerprint(&self) -> Result<String, CompileError> {
        let mut parts = vec![];
        for folder in ["include", "kernels"] {
            for file in list(&self.sources.join(folder))? {
                parts.push(std::fs::read(&file).map_err(io(&file))?);
            }
        }
        Ok(format!("{:016x}", hash(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>())))
    }

    fn source(&self, job: &Job) -> PathBuf {
        self.sources.join("kernels").join(format!("{}.hip", job.source))
    }

    /// The file for a job's image: its name holds a hash of what it is made of, the compiler and the flags.
    fn image(&self, job: &Job, toolchain: &Toolchain) -> Result<PathBuf, CompileError> {
        let mut parts =
            vec![toolchain.version.clone().into_bytes(), toolchain.arguments(&job.arch).join(" ").into_bytes()];
        // The source and the headers that it includes, by themselves or by others.
        let mut files = vec![self.source(job)];
        let mut next = 0;
        while let Some(file) = files.get(next) {
            let text = std::fs::read_to_string(file).map_err(io(file))?;
            for header in text.lines().filter_map(|l| l.trim().strip_prefix("#include \"")?.strip_suffix('"')) {
                let header = self.sources.join("include").join(header);
                if !files.contains(&header) {
                    files.push(header);
                }
            }
            parts.push(text.into_bytes());
            next += 1;
        }
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let name = format!("{}-{:016x}.{}", job.source, hash(&parts), toolchain.kind.extension());
        Ok(self.folder.join(&job.arch).join(name))
    }

    fn make(&self, job: &Job, toolchain: &Toolchain, assembly: bool) -> Result<PathBuf, CompileError> {
        let mut image = self.image(job, toolchain)?;
        if assembly {
            image.set_extension("s");
        }
        if image.exists() {
            return Ok(image);
        }
        let folder = self.folder.join(&job.arch);
        std::fs::create_dir_all(&folder).map_err(io(&folder))?;
        let mut more = vec!["-I".to_owned(), self.sources.join("include").display().to_string()];
        if assembly {
            more.push("-S".to_owned());
        }
        // Written beside its place and then moved, so that a compilation that was cut short leaves no image.
        let partial = folder.join(format!("{}-{}.partial", job.source, std::process::id()));
        let failed =
            |message| CompileError::Failed { source_name: job.source.clone(), arch: job.arch.clone(), message };
        toolchain.run(&job.arch, &more, &self.source(job), &partial).map_err(failed)?;
        std::fs::rename(&partial, &image).map_err(io(&image))?;
        Ok(image)
    }
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, CompileError> {
    let entries = std::fs::read_dir(folder).map_err(io(folder))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| p.is_file()).collect();
    files.sort();
    Ok(files)
}

/// Makes every image that is not there yet, on all processors; the paths are in the order of the jobs.
pub fn compile_all(cache: &Cache, toolchains: &[Toolchain], jobs: &[Job]) -> Result<Vec<PathBuf>, CompileError> {
    in_parallel(jobs, |job| {
        let kind = Kind::of(&job.arch)?;
        let found = toolchains.iter().find(|t| t.kind == kind);
        cache.make(job, found.ok_or_else(|| CompileError::UnknownArch(job.arch.clone()))?, false)
    })
}

/// The assembly of every job, in their order.
pub fn assemblies(cache: &Cache, clang: &Toolchain, jobs: &[Job]) -> Result<Vec<String>, CompileError> {
    in_parallel(jobs, |job| {
        let path = cache.make(job, clang, true)?;
        std::fs::read_to_string(&path).map_err(io(&path))
    })
}

fn in_parallel<T: Send>(
    jobs: &[Job],
    make: impl Fn(&Job) -> Result<T, CompileError> + Sync,
) -> Result<Vec<T>, CompileError> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new((0..jobs.len()).map(|_| None).collect::<Vec<_>>());
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(jobs.len().max(1));
    let work = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(i) else { return };
            let made = make(job);
            if let Ok(mut results) = results.lock() {
                results[i] = Some(made);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let results = results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    results.into_iter().flatten().collect()
}
