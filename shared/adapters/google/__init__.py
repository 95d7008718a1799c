"""Google's services behind the ports: the only package that imports google.cloud or google.genai."""
