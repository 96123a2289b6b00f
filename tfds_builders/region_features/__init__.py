"""Region features: imports feature dumps of any known format into region stores."""

from tfds_builders.region_features.region_features_dataset_builder import Builder as Builder
from tfds_builders.region_features.region_features_dataset_builder import RegionFeaturesConfig as RegionFeaturesConfig
