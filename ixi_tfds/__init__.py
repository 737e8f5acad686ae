"""What the dataset is: roster, demographics, splits, reading, intensity, features."""
