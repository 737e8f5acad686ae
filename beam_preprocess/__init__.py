"""Making the dataset at scale with Apache Beam."""
