"""The application: wiring, policy, life-cycle, faces for operators."""
