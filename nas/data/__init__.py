"""Images and masks for the search, from whatever source, in one shape."""

from nas.data.camus import load_camus_nifti, load_camus_npz
from nas.data.contact_sheet import contact_sheet
from nas.data.dataset import SIZE, SPLITS, Dataset, split_by_patient
from nas.data.folder import load_folder
from nas.data.frame_statistics import FrameStatistics, frame_statistics
from nas.data.labelme import Labels
from nas.data.mce import load_mce
from nas.data.phantom import DEGRADATIONS, PhantomFrame, load_phantom, phantom_frame
from nas.data.source import DataConfig, Kind, load

__all__ = [
    "DEGRADATIONS",
    "SIZE",
    "SPLITS",
    "DataConfig",
    "Dataset",
    "FrameStatistics",
    "Kind",
    "Labels",
    "PhantomFrame",
    "contact_sheet",
    "frame_statistics",
    "load",
    "load_camus_nifti",
    "load_camus_npz",
    "load_folder",
    "load_mce",
    "load_phantom",
    "phantom_frame",
    "split_by_patient",
]
