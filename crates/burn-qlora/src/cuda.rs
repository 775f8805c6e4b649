//! What a program on CUDA needs to find at run time beside the driver.
//!
//! CubeCL compiles kernels through LLVM, which takes `exp`, `log`, `tanh` and their like from libdevice, a file of a CUDA
//! toolkit. It looks for it when the first kernel that calls one is compiled: in attention, an activation gate or the loss,
//! long after a model was loaded. [`libdevice`] looks in the same places, so that a program can tell before.

use std::env;
use std::path::{Path, PathBuf};

/// Where a toolkit has it.
const FILE: &str = "nvvm/libdevice/libdevice.10.bc";
/// Where toolkits are looked for without `CUDA_PATH` (cubecl-llvm 0.11.3, `nvptx/libdevice.rs`).
const ROOTS: [&str; 4] = ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda", "/usr"];

/// CUDA's math functions are not where CubeCL looks for them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{FILE}, the math functions of CUDA kernels, {searched}; set CUDA_PATH to a CUDA toolkit, or `pip install nvidia-nvvm` and \
     set CUDA_PATH to the folder nvidia/cu13 in its site-packages"
)]
pub struct MissingLibdevice {
    searched: String,
}

/// Returns the path of libdevice, without which attention, activation gates and losses do not compile for CUDA.
///
/// # Errors
/// [`MissingLibdevice`], which names the places and the ways out.
pub fn libdevice() -> Result<PathBuf, MissingLibdevice> {
    find(env::var("CUDA_PATH").ok(), &ROOTS.map(Path::new))
}

/// Looks as cubecl-llvm does: where `CUDA_PATH` says and nowhere else, or in the first of `roots` that has a folder for it.
fn find(cuda_path: Option<String>, roots: &[&Path]) -> Result<PathBuf, MissingLibdevice> {
    let folder = |root: &&&Path| root.join(FILE).parent().is_some_and(Path::is_dir);
    let root = match &cuda_path {
        Some(path) => Some(Path::new(path)),
        None => roots.iter().find(folder).copied(),
    };
    let file = root.map(|root| root.join(FILE));
    file.filter(|file| file.is_file())
        .ok_or_else(|| MissingLibdevice {
            searched: match cuda_path {
                Some(path) => format!("is not in CUDA_PATH ({path})"),
                None => {
                    let roots = roots.iter().map(|root| root.display().to_string());
                    let roots: Vec<String> = roots.collect();
                    format!("is in none of {}", roots.join(", "))
                }
            },
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn toolkit(root: &Path) -> PathBuf {
        let file = root.join(FILE);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "BC").unwrap();
        file
    }

    #[test]
    fn a_toolkit_is_found_where_cuda_path_says_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        let file = toolkit(&one);
        let path = |root: &Path| Some(root.display().to_string());
        assert_eq!(find(path(&one), &[]), Ok(file));
        let error = find(path(&other), &[&one]).unwrap_err().to_string();
        assert!(
            error.contains(&format!("is not in CUDA_PATH ({})", other.display())),
            "{error}"
        );
    }

    #[test]
    fn the_first_of_the_usual_places_with_the_folder_counts() {
        let folder = tempfile::tempdir().unwrap();
        let roots = ["none", "empty", "full"].map(|name| folder.path().join(name));
        let file = toolkit(&roots[2]);
        let places: Vec<&Path> = roots.iter().map(PathBuf::as_path).collect();
        assert_eq!(find(None, &places), Ok(file));
        fs::create_dir_all(roots[1].join(FILE).parent().unwrap()).unwrap();
        assert!(find(None, &places).is_err());
    }

    #[test]
    fn what_is_missing_is_said_with_the_ways_out_on_one_line() {
        let error = find(
            None,
            &ROOTS
                .map(|root| Path::new(root).join("none"))
                .each_ref()
                .map(PathBuf::as_path),
        );
        let error = error.unwrap_err().to_string();
        for words in [
            "nvvm/libdevice/libdevice.10.bc",
            "/usr/local/cuda",
            "set CUDA_PATH to a CUDA toolkit",
            "pip install nvidia-nvvm",
        ] {
            assert!(error.contains(words), "{error}");
        }
        assert!(!error.contains('\n'), "{error}");
    }
}
