"""Process: what any long-running process needs: clocks that know standstills, descriptors, an
orderly end, bounded logs, whole files."""
